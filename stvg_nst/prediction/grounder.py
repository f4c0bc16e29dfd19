"""A grounder for anyone's video: a film and sentences in, tubes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from torch import Tensor

from datamodules.footage import Footage, VideoSource, open_footage
from stvg_nst.models.description import Viewing
from stvg_nst.prediction.answer import Answer
from stvg_nst.prediction.network import Network
from stvg_nst.prediction.viewing import show
from stvg_nst.prediction.windows import Finding, best_finding, cut_windows

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class VideoGrounder:
    """Answers with a frozen network, or with one of its adapters; :func:`stvg_nst.load` makes it.

    It may be used by several threads: films are read side by side, the network works for one of them at a time.

    Args:
        name: of the model, for people.
        viewing: how the network is shown a clip.
        frozen: the network as it was pretrained.
        adapters: the same network under each adapter, by name; they share its weights.
        adapter: that answers, ``None`` for the frozen network.
    """

    name: str
    viewing: Viewing
    frozen: Network
    adapters: Mapping[str, Network]
    adapter: str | None = None
    _working: Lock = field(default_factory=Lock, repr=False)

    def using(self, adapter: str | None) -> VideoGrounder:
        """A grounder over the same weights that answers with another adapter, or with none.

        Raises:
            ValueError: there is no adapter of that name.
        """
        if adapter is not None and adapter not in self.adapters:
            known = ", ".join(f"'{name}'" for name in self.adapters) or "none"
            raise ValueError(f"there is no adapter '{adapter}'; loaded are {known}")
        return VideoGrounder(self.name, self.viewing, self.frozen, self.adapters, adapter, self._working)

    def with_adapter(self, name: str, path: Path | str) -> VideoGrounder:
        """A grounder over the same weights that knows one more adapter, and answers with it.

        Raises:
            AdapterMismatchError, ValueError, OSError: as :meth:`stvg_nst.prediction.network.Network.adapted`.
        """
        with self._working:
            adapters = {**self.adapters, name: self.frozen.adapted(Path(path))}
        return VideoGrounder(self.name, self.viewing, self.frozen, adapters, name, self._working)

    @property
    def network(self) -> Network:
        """That answers."""
        return self.frozen if self.adapter is None else self.adapters[self.adapter]

    def __str__(self) -> str:
        what = "frozen" if self.adapter is None else f"adapter '{self.adapter}' ({self.network.method})"
        return f"{self.name}, {what}"

    def ground(
        self,
        video: VideoSource | Footage,
        sentence: str,
        *,
        start: float | None = None,
        stop: float | None = None,
        fps: float | None = None,
        window: float | None = None,
        overlap: float | None = None,
        compare: bool = True,
        progress: Progress | None = None,
    ) -> Answer:
        """Finds what a sentence speaks of in a video.

        A video that is longer than a window is answered window by window, in the memory of two windows.

        Args:
            video: a file's path, an open binary file, an array (T, H, W, 3), uint8, RGB, or what
                :func:`datamodules.footage.open_footage` has made of one of them.
            sentence: in the words of the data that the network knows.
            start, stop: of the part to look at, in seconds after the video's first frame; all unless given.
            fps: frames per second; needed of an array, and in place of a file's own times where given. What is open
                already has its own.
            window: seconds; by default what the network's clips last at most. A part that is no longer than that and a
                tenth is shown at once, as ``test`` shows a clip.
            overlap: seconds that neighbouring windows share at least; half a window by default. What lasts no longer
                lies whole in one of them.
            compare: ask the frozen network too, where an adapter answers.
            progress: is told of a long video how many windows are done, and how many there are.

        Raises:
            VideoDecodeError: the file is missing, no video, truncated or damaged.
            OSError: it may not be read.
            ValueError: the sentence is blank or too long, or another argument is not as said above.
        """
        (answer,) = self.ground_all(
            video,
            (sentence,),
            start=start,
            stop=stop,
            fps=fps,
            window=window,
            overlap=overlap,
            compare=compare,
            progress=progress,
        )
        return answer

    def ground_all(
        self,
        video: VideoSource | Footage,
        sentences: Sequence[str],
        *,
        start: float | None = None,
        stop: float | None = None,
        fps: float | None = None,
        window: float | None = None,
        overlap: float | None = None,
        compare: bool = True,
        progress: Progress | None = None,
    ) -> tuple[Answer, ...]:
        """As :meth:`ground`, of several sentences, for which the video is decoded and encoded once.

        Returns:
            An answer to each, in their order.
        """
        self.check(sentences)
        if isinstance(video, Footage) and fps is not None:
            raise ValueError(f"fps {fps:g} belongs to open_footage, for this video is open already")
        footage = video if isinstance(video, Footage) else open_footage(video, fps=fps)
        segment = footage.segment(start, stop)
        seconds = self.viewing.clip_seconds if window is None else window
        windows = cut_windows(segment, footage.fps, seconds, seconds / 2 if overlap is None else overlap)
        networks = [self.network, *[self.frozen] * (compare and self.adapter is not None)]
        found: list[list[list[Finding]]] = []  # by window, network and sentence
        for frame_ids, frames in show(footage, windows, self.viewing):
            with self._working:
                found.append(_look(networks, frames, frame_ids, footage.size, sentences))
            if progress is not None:
                progress(len(found), len(windows))
        return tuple(
            self._answer(footage, segment, sentence, [[each[row] for each in window] for window in found])
            for row, sentence in enumerate(sentences)
        )

    def check(self, sentences: Sequence[str]) -> None:
        """Refuses what the network cannot read, ahead of any video.

        Raises:
            ValueError: there is no sentence, or one is blank or too long.
        """
        if isinstance(sentences, str) or not sentences or not all(isinstance(each, str) for each in sentences):
            raise ValueError(
                f"expected a list of sentences, at least one and each a text, got {sentences!r}; `ground` takes one "
                "sentence, `ground_all` a list"
            )
        with self._working:  # a tokenizer serves one thread at a time
            faults = self.frozen.grounder.query_faults(sentences)
        if faults:
            index, fault = next(iter(faults.items()))
            said = sentences[index] if len(sentences[index]) <= 60 else sentences[index][:57] + "..."
            raise ValueError(f"the sentence {said!a} {fault}; write another")

    def _answer(
        self, footage: Footage, segment: tuple[int, int], sentence: str, found: Sequence[Sequence[Finding]]
    ) -> Answer:
        """Of one sentence, from what each window's networks have found."""
        own, *others = (best_finding(of_network) for of_network in zip(*found, strict=True))
        frozen = None
        for other in others:
            frozen = self.using(None)._as_answer(footage, segment, sentence, other, None)
        return self._as_answer(footage, segment, sentence, own, frozen)

    def _as_answer(
        self, footage: Footage, segment: tuple[int, int], sentence: str, found: Finding, frozen: Answer | None
    ) -> Answer:
        return Answer(
            sentence=sentence,
            tube=found.tube,
            confidence=found.confidence,
            quality=found.quality,
            model=str(self),
            method=self.network.method,
            segment=segment,
            footage=footage,
            degraded_above=self.network.degraded_above,
            frozen=frozen,
        )


def _look(
    networks: Sequence[Network],
    frames: Tensor,
    frame_ids: tuple[int, ...],
    size: tuple[int, int],
    sentences: Sequence[str],
) -> list[list[Finding]]:
    """What each network finds in a window for each sentence; one that encodes as the first does takes its features."""
    first, *others = networks
    encoded = first.encode(frames)
    found = [first.find(encoded, frame_ids, size, sentences)]
    for other in others:
        own = encoded if other.shares_backbones(first) else other.encode(frames)
        found.append(other.find(own, frame_ids, size, sentences))
    return found
