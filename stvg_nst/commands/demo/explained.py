"""The tabs that explain: results of the comparison in print, and the method's figure drawn anew."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

import stvg_nst

_PEERS = Path(stvg_nst.__file__).parents[1] / "docs" / "peers"
_TABLES = {"Fig. 2 in numbers": "fig2.md", "Table I": "table1.md", "Table II": "table2.md"}


def explanation() -> str:
    """How null-space tuning works, as HTML with a figure."""
    return Path(__file__).with_name("how_it_works.html").read_text(encoding="utf-8")


def published_tables() -> None:
    """Adds Fig. 2 and the tables of the comparison, where the repository's documentation is there."""
    if not _PEERS.is_dir():
        gr.Markdown("The results are in `docs/peers/` of the repository, which is not here.")
        return
    gr.Markdown(
        "The methods on equal terms, on MiniSTVG: what each wins on degraded clips (up), and what it loses on clean "
        "ones (to the right). `make tables` makes these from the runs; `docs/results.md` says what follows from them."
    )
    gr.Image(str(_PEERS / "fig2.png"), show_label=False, interactive=False, buttons=[], elem_id="fig2")
    for title, name in _TABLES.items():
        with gr.Accordion(title, open=False):
            gr.Markdown((_PEERS / name).read_text(encoding="utf-8"))
