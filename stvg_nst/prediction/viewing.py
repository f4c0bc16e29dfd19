"""How a network is shown a clip, out of the data that it was tested on, and back into what reads a film."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from datamodules.base import STVGDataModule
from datamodules.footage import Footage
from datamodules.sampling import EvenFrames, FrameChoice, FramesAtRate, FramesByClock
from datamodules.transforms import Resize, Resizing, ShortSide, to_network
from stvg_nst.inference import InferenceProtocol
from stvg_nst.models.description import Viewing
from stvg_nst.prediction.windows import Window


def viewing_of(data: STVGDataModule, inference: InferenceProtocol) -> Viewing:
    """How ``test`` shows the clips of a data set.

    Raises:
        ValueError: it chooses their frames by a rule of its own.
    """
    choice, resize = data.frame_choice("test"), data.resize()
    if not isinstance(choice, EvenFrames | FramesAtRate | FramesByClock):
        raise ValueError(
            f"{type(data).__name__} chooses frames by {choice!r}, which no weights file can say; use EvenFrames, "
            "FramesAtRate or FramesByClock of datamodules.sampling"
        )
    return Viewing(
        num_frames=choice.num_frames if isinstance(choice, EvenFrames) else None,
        frame_rate=None if isinstance(choice, EvenFrames) else choice.rate,
        resolution=None if resize is None else resize.resolution,
        antialias=isinstance(resize, Resize) and resize.antialias,
        inference=inference,
        clip_seconds=data.clip_seconds,
        at_most=choice.at_most if isinstance(choice, FramesByClock) else None,
        short_side=isinstance(resize, ShortSide),
    )


def frame_choice(viewing: Viewing) -> FrameChoice:
    """Which frames of a window are shown."""
    if viewing.num_frames is not None:
        return EvenFrames(viewing.num_frames)
    assert viewing.frame_rate is not None
    if viewing.at_most is not None:
        return FramesByClock(viewing.frame_rate, viewing.at_most)
    return FramesAtRate(viewing.frame_rate)


def resize(viewing: Viewing) -> Resizing | None:
    """How frames are brought to the network's size."""
    if viewing.resolution is None:
        return None
    return ShortSide(viewing.resolution) if viewing.short_side else Resize(viewing.resolution, viewing.antialias)


def show(footage: Footage, windows: Sequence[Window], viewing: Viewing) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """Of each window the native frames that are sampled, and what the network takes of them.

    The film is decoded once, whatever the windows share; the frames of two windows are in memory at a time.

    Args:
        footage: the film.
        windows: of rising begins.
        viewing: how the network is shown a clip.

    Yields:
        T frame ids, and (T, 3, H, W) float32, normalised.
    """
    choose, bring = frame_choice(viewing), resize(viewing)
    chosen = [choose(window) for window in windows]
    wanted = sorted({frame for ids in chosen for frame in ids})
    coming = zip(wanted, footage.frames(wanted), strict=True)
    held: dict[int, Tensor] = {}
    for ids in chosen:
        held = {frame: pixels for frame, pixels in held.items() if frame >= ids[0]}
        while ids[-1] not in held:
            frame, picture = next(coming)
            held[frame] = to_network(picture[None], bring)[0]
        yield ids, torch.stack([held[frame] for frame in ids])
