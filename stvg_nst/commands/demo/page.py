"""The page: what a visitor chooses, what that shows at once, and what both models say."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any
from uuid import uuid4

import gradio as gr
import numpy as np

from datamodules.degradation.kinds import DEGRADATIONS, DegradationKind
from datamodules.footage import open_footage
from datamodules.video import VideoDecodeError
from stvg_nst.commands.demo.comparison import compare
from stvg_nst.commands.demo.explained import add_results, explanation
from stvg_nst.commands.demo.films import (
    LARGEST_MB,
    LONGEST_SECONDS,
    Film,
    admit_upload,
    degraded_copy,
    preview,
)
from stvg_nst.commands.demo.models import SHIPPED, Models
from stvg_nst.commands.demo.words import READY, meter, promise, verdict

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
            "whether NST has forgotten anything."
        )
        with gr.Tab("Try it"):
            _add_trial(page, _Desk(films, models, uploads))
        with gr.Tab("Results"):
            add_results(models.folders)
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
            raise _refusal("This film cannot be used", error) from error

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
        model: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (by this default Gradio knows that it is wanted)
    ) -> tuple[str, str, str, str]:
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
            raise _refusal("There is no answer", error) from error
        certain = promise(self.models.folder(model), found)
        return str(found.frozen_film), str(found.tuned_film), verdict(found) + meter(found), certain


def _refusal(what: str, error: Exception) -> gr.Error:
    """What a visitor is told. It names no file of this machine; what is this machine's fault goes to its log."""
    reason = str(error)
    if isinstance(error, VideoDecodeError):
        reason = error.cause
    elif isinstance(error, OSError):
        reason = error.strerror or "a file of this machine cannot be read"
    words = escape(f"{what}: {reason}")  # Gradio takes it for HTML
    return gr.Error(words, duration=None, print_exception=isinstance(error, OSError))


def _add_trial(page: gr.Blocks, desk: _Desk) -> None:
    """The first tab. Uploads are read by all parts of it, so that each refuses a bad one by itself."""
    clips, names = [*desk.films], desk.models.names
    with gr.Row():
        with gr.Column(scale=1, min_width=320):
            clip = gr.Dropdown(clips, value=clips[0], label="1. A clip of the benchmark", elem_id="clip")
            known = desk.films[clips[0]].sentences
            sentence = gr.Dropdown(
                [*known],
                value=known[0],
                allow_custom_value=True,
                label="2. A sentence",
                info="Choose one, or write your own in such words.",
                elem_id="sentence",
            )
            kind = gr.Radio([*_KINDS], value="motion blur", label="3. What spoils it", elem_id="kind")
            severity = gr.Slider(1, 5, value=4, step=1, label="How badly", elem_id="severity")
            ask = gr.Button("Ask both models", variant="primary", elem_id="ask")
            shown_names = [(f"{name}, which comes with the suite" if name == SHIPPED else name, name) for name in names]
            model = gr.Dropdown(shown_names, value=names[0], label="The tuned model", elem_id="model")
            limits = f"A film of your own, up to {LONGEST_SECONDS} s and {LARGEST_MB} MB"
            upload = gr.File(label=limits, type="filepath", height=180, elem_id="upload")
        with gr.Column(scale=2, min_width=480):
            shown = gr.Image(
                label="The film, and what is left of it", interactive=False, buttons=[], height=190, elem_id="preview"
            )
            words = gr.HTML(READY, elem_id="words")
            with gr.Row():
                options: dict[str, Any] = {"autoplay": True, "loop": True, "interactive": False}
                options |= {"buttons": [], "height": 380}
                frozen = gr.Video(label="The frozen model", elem_id="frozen", **options)
                tuned = gr.Video(label="The tuned model", elem_id="tuned", **options)
            certain = gr.HTML(elem_id="certain")
    answer = [frozen, tuned, words, certain]
    look: dict[str, Any] = {"fn": desk.preview, "inputs": [clip, upload, kind, severity], "outputs": shown}
    look["show_progress"] = "hidden"
    for change in (clip.change, upload.change):
        change(desk.sentences, [clip, upload], sentence, queue=False, show_progress="hidden")
        change(**look, trigger_mode="always_last", concurrency_limit=2)
    for change in (kind.change, severity.change):
        change(**look, trigger_mode="always_last", concurrency_limit=2)
    kind.change(lambda kind: gr.update(visible=kind != CLEAN), kind, severity, queue=False, show_progress="hidden")
    # An answer to another question than the one that stands there would mislead.
    gr.on(
        [each.change for each in (clip, upload, sentence, kind, severity, model)],
        lambda: (None, None, READY, ""),
        outputs=answer,
        queue=False,
        show_progress="hidden",
    )
    ask.click(
        desk.ask,
        [clip, upload, sentence, kind, severity, model],
        answer,
        show_progress_on=[frozen, tuned],
        concurrency_id="heavy",
    )
    page.load(**look)
