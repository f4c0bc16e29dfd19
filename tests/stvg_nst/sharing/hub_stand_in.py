"""As much of the Hugging Face hub as its client needs to keep a folder and to hand it out again, on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, Self

SHA = "0123456789abcdef0123456789abcdef01234567"


class HubStandIn:
    """A server of one process; ``files`` are those of the only revision, by repository and path."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                stand_in.asked.append(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self._answer(stand_in.posted(self.path, body))

            def do_GET(self) -> None:
                stand_in.asked.append(self.path)
                repository, _, rest = self.path.removeprefix("/api/models/").lstrip("/").partition("/resolve/")
                if rest:
                    self._file(stand_in.files.get(repository, {}).get(rest.partition("/")[2]))
                else:
                    self._answer(stand_in.described(self.path))

            do_HEAD = do_GET

            def _answer(self, content: Any) -> None:
                self._send(404 if content is None else 200, json.dumps(content).encode(), "application/json")

            def _file(self, content: bytes | None) -> None:
                self._send(404 if content is None else 200, content or b"", "application/octet-stream")

            def _send(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("X-Repo-Commit", SHA)
                self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, *arguments: Any) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def posted(self, path: str, body: bytes) -> Any:
        if path == "/api/repos/create":
            asked = json.loads(body)
            repository = f"{asked.get('organization') or 'user'}/{asked['name']}"
            self.files.setdefault(repository, {})
            return {"url": f"{self.address}/{repository}", "name": repository, "id": "1"}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        repository = "/".join(path.split("/")[3:5])
        if "/preupload/" in path:
            files = [entry["path"] for entry in json.loads(body)["files"]]
            return {"files": [{"path": file, "uploadMode": "regular", "shouldIgnore": False} for file in files]}
        if "/commit/" in path:
            for line in filter(None, body.splitlines()):
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[repository][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                if entry["key"] == "deletedFile":
                    del self.files[repository][entry["value"]["path"]]
            address = f"{self.address}/{repository}/commit/{SHA}"
            return {"success": True, "commitOid": SHA, "commitUrl": address, "hookOutput": ""}
        return None

    def described(self, path: str) -> Any:
        repository = "/".join(path.split("/")[3:5])
        if repository not in self.files:
            return None
        if "/tree/" in path:
            return [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in self.files[repository].items()
            ]
        siblings = [{"rfilename": name} for name in self.files[repository]]
        return {"id": repository, "sha": SHA, "siblings": siblings, "private": False, "tags": []}
