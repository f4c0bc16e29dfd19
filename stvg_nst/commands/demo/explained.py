"""The tabs that explain: what the runs here have measured, the comparison in print, and the method's figure."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import gradio as gr

import stvg_nst
from stvg_nst.report import report_markdown
from stvg_nst.results.run_folder import RunFile

_COMPARISON = Path(stvg_nst.__file__).parents[1] / "docs" / "confirm"
_TABLES = {"Fig. 2 in numbers": "fig2.md", "Table I": "table1.md", "Table II": "table2.md"}


def explanation() -> str:
    """How null-space tuning works, as HTML with a figure."""
    return Path(__file__).with_name("how_it_works.html").read_text(encoding="utf-8")


def add_results(folders: Iterable[Path]) -> None:
    """Adds what the runs of some folders have measured, and the published comparison where the repository has it."""
    gr.Markdown("## The runs of this page")
    measured = report_markdown(
        (path for folder in folders for path in sorted(folder.rglob(RunFile.RESULTS))), by_sentence=False
    )
    _add_tables(measured or "No run has been tested yet. `make train` tunes and tests one.")
    if measured:
        gr.Markdown(
            "HQ: clean clips. LQ: the same clips, degraded. MQ: both. In parentheses: the difference to the frozen "
            "model (ZeroShot). WAS: what is won on LQ minus what is lost on HQ. `docs/metrics.md` defines the metrics."
        )
    gr.Markdown("## The methods on equal terms")
    if not _COMPARISON.is_dir():
        gr.Markdown("The results are in `docs/confirm/` of the repository, which is not here.")
        return
    gr.Markdown(
        "What each method wins on degraded clips (up), and what it loses on clean ones (to the right). Each has the "
        "form that was chosen for it on other clips. LoRA, Switch, Gated adapter and NST are also pulled to what the "
        "frozen model makes of the clean clips. `docs/results.md` says what follows."
    )
    gr.Image(str(_COMPARISON / "fig2.png"), show_label=False, interactive=False, buttons=[], elem_id="fig2")
    for title, name in _TABLES.items():
        with gr.Accordion(title, open=False):
            _add_tables((_COMPARISON / name).read_text(encoding="utf-8"))


def _add_tables(text: str) -> None:
    # As it is, vIoU@0.3 is taken for somebody's address, and linked.
    gr.Markdown(text.replace("@", "&#64;"), elem_classes="tables")
