"""Serves the page, to this machine only unless asked otherwise, and leaves nothing behind."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

# Read when Gradio is imported: it asks its makers' servers for news, and counts its users.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio

from stvg_nst.commands.demo.films import LARGEST_MB, benchmark_films
from stvg_nst.commands.demo.models import Models
from stvg_nst.commands.demo.page import CSS, THEME, build_page


def serve(runs: Sequence[Path], *, data: Path, host: str, port: int) -> int:
    """Serves until it is interrupted.

    Raises:
        OSError: the port is taken.
    """
    print("the page starts", flush=True)  # which takes some seconds, and longer where the benchmark is to be rendered
    models = Models(runs)
    with tempfile.TemporaryDirectory(prefix="stvg-demo-") as folder:
        page = start(models, data=data, folder=Path(folder), host=host, port=port)
        print(f"the page is at http://{host}:{port}; Ctrl-C ends it", flush=True)
        try:
            page.block_thread()
        finally:
            page.close(verbose=False)
    return 0


def start(models: Models, *, data: Path, folder: Path, host: str, port: int) -> gradio.Blocks:
    """Serves from threads of its own until it is closed.

    Args:
        folder: for uploads and drawn films; its owner removes it.
    """
    uploads = folder / "uploads"
    uploads.mkdir()
    os.environ["GRADIO_TEMP_DIR"] = str(uploads)  # Gradio keeps uploads there, and serves no other file
    page = build_page(benchmark_films(data), models, uploads)
    page.queue(default_concurrency_limit=1, max_size=16, api_open=False)
    page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        enable_monitoring=False,
        max_file_size=f"{LARGEST_MB}mb",
        theme=THEME,
        css=CSS,
        footer_links=[],
    )
    return page
