"""The page: what a visitor chooses, what that shows at once, and what both models say."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import gradio as gr
import numpy as np

from datamodules.degradation.kinds import DEGRADATIONS, DegradationKind
from datamodules.footage import open_footage
from datamodules.video import VideoDecodeError
from stvg_nst.commands.demo.comparison import compare
from stvg_nst.commands.demo.explained import explanation, published_tables
from stvg_nst.commands.demo.films import (
    LARGEST_MB,
    LONGEST_SECONDS,
    Film,
    admit_upload,
    degraded_copy,
    preview,
)
from stvg_nst.commands.demo.models import Models
from stvg_nst.commands.demo.words import NO_MODEL, READY, meter, promise, verdict

CLEAN = "clean"
_KINDS: dict[str, DegradationKind | None] = {CLEAN: None, **{kind.replace("_", " "): kind for kind in DEGRADATIONS}}
_FONTS = ["system-ui", "sans-serif"]  # of the visitor's own machine: none is fetched
THEME = gr.themes.Default(font=_FONTS, font_mono=["ui-monospace", "monospace"])
CSS = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
_REFUSED = (ValueError, VideoDecodeError, OSError)
"""What is wrong with what a visitor gave, in words for him."""


def build_page(films: dict[str, Film], models: Models, uploads: Path) -> gr.Blocks:
    """The page over some films and models; ``uploads`` is the only folder that a browser's paths may lie in."""
    with gr.Blocks(title="Null-space tuning", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(
            "# Does it restore, does it forget?\n"
            "A grounder finds what a sentence speaks of in a film. It was trained on clean film. **Spoil a clip, and "
            "ask the frozen model and the same model after null-space tuning (NST).** Then choose *clean*, and see "
            "that NST has forgotten little."
        )
        with gr.Tab("Try it"):
            _add_trial(_Desk(films, models, uploads))
        with gr.Tab("Results"):
            published_tables()
        with gr.Tab("How it works"):
            gr.HTML(explanation())
    return page


class _Desk:
    """What the page does when something is chosen; every refusal becomes words on the page."""

    def __init__(self, films: dict[str, Film], models: Models, uploads: Path) -> None:
        self.films, self.models, self._uploads = films, models, uploads

    def film(self, name: str, upload: str | None) -> Film:
        """The upload where there is one, otherwise a clip of the list.

        Raises:
            gradio.Error: it cannot be used.
        """
        try:
            return self.films[name] if upload is None else admit_upload(Path(upload), self._uploads)
        except _REFUSED as error:
            raise gr.Error(f"This film cannot be used: {error}", duration=None) from error

    def sentences(self, name: str, upload: str | None) -> Any:
        known = self.film(name, upload).sentences
        return gr.update(choices=[*known], value=known[0] if known else "")

    def preview(self, name: str, upload: str | None, kind: str, severity: int) -> np.ndarray:
        return preview(open_footage(self.film(name, upload).file), _KINDS[kind], int(severity))

    def ask(
        self,
        name: str,
        upload: str | None,
        sentence: str,
        kind: str,
        severity: int,
        model: str | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (by this default Gradio knows that it is wanted)
    ) -> tuple[str, str | None, str, str]:
        """Films of both answers, and what they mean."""
        progress(0.0, "reading the film")
        film = self.film(name, upload)
        folder = self._uploads / uuid4().hex
        folder.mkdir()
        spoilt = _KINDS[kind]
        try:
            seen = film.file
            if spoilt is not None:
                progress(0.1, "spoiling the film")
                seen = degraded_copy(film.file, spoilt, int(severity), folder)
            truth = film.truth if sentence in film.sentences else None
            found = compare(self.models.get(model), seen, sentence, truth, folder, progress)
        except _REFUSED as error:
            raise gr.Error(f"There is no answer: {error}", duration=None) from error
        tuned = None if found.tuned_film is None else str(found.tuned_film)
        return str(found.frozen_film), tuned, verdict(found) + meter(found), promise(self.models.folder(model))


def _add_trial(desk: _Desk) -> None:
    """The first tab. Uploads are read by all parts of it, so that each refuses a bad one by itself."""
    clips = [*desk.films]
    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            clip = gr.Dropdown(clips, value=clips[0], label="1. A clip of the benchmark", elem_id="clip")
            limits = f"or a film of your own, up to {LONGEST_SECONDS} s and {LARGEST_MB} MB"
            upload = gr.File(label=limits, type="filepath", height=140, elem_id="upload")
            known = desk.films[clips[0]].sentences
            sentence = gr.Dropdown(
                [*known],
                value=known[0],
                allow_custom_value=True,
                label="2. A sentence",
                info="Choose one, or write another in its words.",
                elem_id="sentence",
            )
            kind = gr.Radio([*_KINDS], value="motion blur", label="3. What spoils it", elem_id="kind")
            severity = gr.Slider(1, 5, value=4, step=1, label="how badly", elem_id="severity")
            names = desk.models.names
            model = gr.Dropdown(
                names, value=names[0] if names else None, label="The tuned model", visible=bool(names), elem_id="model"
            )
            ask = gr.Button("Ask both models", variant="primary", elem_id="ask")
        with gr.Column(scale=2, min_width=480):
            shown = gr.Image(label="As it is, and spoilt", interactive=False, buttons=[], height=220, elem_id="preview")
            words = gr.HTML(READY if names else NO_MODEL, elem_id="words")
            with gr.Row():
                options: dict[str, Any] = {"autoplay": True, "loop": True, "interactive": False}
                options |= {"buttons": [], "height": 380}
                frozen = gr.Video(label="The frozen model", elem_id="frozen", **options)
                tuned = gr.Video(label="Tuned by NST", elem_id="tuned", visible=bool(names), **options)
            certain = gr.HTML(elem_id="certain")
    look = {"fn": desk.preview, "inputs": [clip, upload, kind, severity], "outputs": shown, "show_progress": "hidden"}
    for change in (clip.change, upload.change):
        change(desk.sentences, [clip, upload], sentence, queue=False)
        change(**look, trigger_mode="always_last", concurrency_limit=2)
    for change in (kind.change, severity.change):
        change(**look, trigger_mode="always_last", concurrency_limit=2)
    ask.click(
        desk.ask,
        [clip, upload, sentence, kind, severity, model],
        [frozen, tuned, words, certain],
        show_progress_on=[frozen, tuned],
        concurrency_id="heavy",
    )
    gr.context.Context.root_block.load(**look)
