"""What a weights file says of itself beside its tensors: the network, and how it is shown a clip."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import inf
from typing import Any, get_args

from stvg_nst.inference import InferenceProtocol

METADATA_KEY = "stvg_nst_model"
FORMAT_VERSION = 1


class DescriptionError(ValueError):
    """A weights file that does not say what is needed to answer with it."""


@dataclass(frozen=True, slots=True)
class Viewing:
    """How a network is shown a clip in its test, and so in any other video.

    Args:
        num_frames: sampled of a clip, spread evenly; ``None`` where a rate says it.
        frame_rate: frames sampled a second; ``None`` where their number says it.
        resolution: height, or short side, that frames are brought to, in pixels; ``None`` leaves them as they are.
        antialias: average over the pixels that fall away when a height is reached.
        inference: at once, or in two passes.
        clip_seconds: that a clip lasts at most; a longer video is shown in windows of this length.
        at_most: frames of a clip, where those at ``frame_rate`` are counted by the clock of the video; ``None`` where
            they are counted from the clip's first one.
        short_side: the resolution is that of the short side.

    Raises:
        ValueError: a number is not positive, it is not one of ``num_frames`` and ``frame_rate`` that is given, or
            ``at_most`` stands beside the former.
    """

    num_frames: int | None
    frame_rate: float | None
    resolution: int | None
    antialias: bool
    inference: InferenceProtocol
    clip_seconds: float
    at_most: int | None = None
    short_side: bool = False

    def __post_init__(self) -> None:
        if (self.num_frames is None) == (self.frame_rate is None):
            raise ValueError(
                f"a clip is sampled by a number of frames or by a rate, got {self.num_frames} and {self.frame_rate}"
            )
        if self.at_most is not None and self.frame_rate is None:
            raise ValueError(f"at_most {self.at_most} limits the frames at a rate, but none is given; leave it out")
        for name in ("num_frames", "frame_rate", "resolution", "clip_seconds", "at_most"):
            value = getattr(self, name)
            if value is not None and not 0 < value < inf:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.inference not in get_args(InferenceProtocol):
            raise ValueError(f"inference must be one of {get_args(InferenceProtocol)}, got {self.inference!r}")


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """A network and its viewing.

    Args:
        grounder: ``class_path`` and ``init_args``, as in a run's configuration; thresholds are among them.
        viewing: how it is shown a clip.
    """

    grounder: dict[str, Any]
    viewing: Viewing

    def to_metadata(self) -> dict[str, str]:
        """For a safetensors file."""
        content = {"format_version": FORMAT_VERSION, "grounder": self.grounder, "viewing": asdict(self.viewing)}
        return {METADATA_KEY: json.dumps(content, sort_keys=True, allow_nan=False)}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str], source: str) -> ModelDescription:
        """What the metadata of a file say.

        Args:
            source: the file, as errors name it.

        Raises:
            DescriptionError: they do not describe a network, or in another format.
        """
        if METADATA_KEY not in metadata:
            raise DescriptionError(
                f"'{source}' holds weights, but does not say of which network they are, nor how it is shown a clip; "
                "give a run's folder, or a file that `export` has written"
            )
        try:
            content = json.loads(metadata[METADATA_KEY])
        except json.JSONDecodeError as error:
            raise DescriptionError(
                f"'{source}' is damaged: what it says of its network is no JSON ({error})"
            ) from error
        version = content.get("format_version") if isinstance(content, dict) else None
        if version != FORMAT_VERSION:
            raise DescriptionError(
                f"'{source}' describes its network in format {version}, this version reads "
                f"{FORMAT_VERSION}; write it again by `export`"
            )
        try:
            return cls(content["grounder"], Viewing(**content["viewing"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DescriptionError(f"'{source}' describes its network wrongly ({error}); write it again") from error
