from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stvg_nst.sharing import adapter_file, check_name, fetch, is_reference
from tests.stvg_nst.sharing.hub_stand_in import HubStandIn

FETCH = "from stvg_nst.sharing import fetch; print(fetch('hub:user/night'))"


def client(code: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Code in a process of its own: the hub's client reads its environment when it is imported."""
    settings = {"HF_HOME": str(home), "HF_TOKEN": "hf_stand_in", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **settings, "HF_HUB_DISABLE_TELEMETRY": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_what_is_sent_comes_back_and_stays_without_a_network(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    contents = {"adapter.safetensors": b"tensors", "config.json": b"{}", "README.md": b"---\ntags: []\n---\n# night"}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    with HubStandIn() as hub:
        hub.files["user/night"] = {"certificate.json": b"of an earlier adapter", "notes.txt": b"the user's"}
        send = f"from pathlib import Path\nfrom stvg_nst.sharing import send\nprint(send(Path({str(folder)!r}), "
        sent = client(f"{send}'user/night', private=True))", tmp_path / "sender", HF_ENDPOINT=hub.address)
        assert sent.returncode == 0, sent.stderr
        assert hub.files == {"user/night": contents | {"notes.txt": b"the user's"}} and "user/night" in sent.stdout
        fetched = client(FETCH, tmp_path / "home", HF_ENDPOINT=hub.address)
        assert fetched.returncode == 0, f"{fetched.stderr}\n{hub.asked}"
        place = Path(fetched.stdout.strip())
        assert {path.name: path.read_bytes() for path in place.iterdir()} == contents
    kept = client(FETCH, tmp_path / "home", HF_HUB_OFFLINE="1")
    assert Path(kept.stdout.strip()) == place, kept.stderr
    absent = client(FETCH, tmp_path / "empty", HF_HUB_OFFLINE="1")
    assert "'hub:user/night' is not in the cache of the Hugging Face hub" in absent.stderr


@pytest.mark.parametrize("name", ["hub:", "hub:night", "hub:user/../night/x", "hub:user/night@"])
def test_a_reference_has_a_user_and_a_name(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected hub:user/name or hub:user/name@revision, got"):
        fetch(name)


@pytest.mark.parametrize("name", ["night", "user/na--me", "user/-night", "user/night@main"])
def test_a_name_that_the_hub_does_not_take_is_refused_ahead_of_it(name: str) -> None:
    with pytest.raises(ValueError, match=r"user/name.* the Hugging Face hub"):
        check_name(name)
    if "--" in name:
        with pytest.raises(ValueError, match="'user/na--me' is no user/name of the Hugging Face hub"):
            fetch(f"hub:{name}")


def test_an_adapter_is_a_file_or_a_folder_that_holds_one(tmp_path: Path) -> None:
    (tmp_path / "adapter.safetensors").touch()
    assert adapter_file(tmp_path) == adapter_file(tmp_path / "adapter.safetensors") == tmp_path / "adapter.safetensors"
    assert is_reference("hub:user/name") and not is_reference(tmp_path)
