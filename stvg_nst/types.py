"""The nouns of spatio-temporal video grounding, shared by every other file.

Shape legend, used in all docstrings:
    B  clips in a batch            T  sampled frames of a clip       L  tokens of a query
    N  tokens of a frame           D  width of a feature             K  nullity or rank
    S  decoder stages (layers)     H, W  height and width in pixels  h, w  of a feature map

Conventions: spans are half-open ``[start, stop)`` in native frame indices; sizes are ``(H, W)``; boxes of a
:class:`Tube` are ``xyxy`` in native pixels; boxes inside the network are ``cxcywh`` in units of the frame's size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SentenceType = Literal["declarative", "interrogative"]
SENTENCE_TYPES: tuple[SentenceType, ...] = get_args(SentenceType)

Kernels = Literal["relative", "absolute"]


class Quality(IntEnum):
    """The quality label ``y_q`` of a clip, eqs. (6) and (7): 0 for high quality, 1 for low quality."""

    HQ = 0
    LQ = 1


@dataclass(frozen=True, slots=True)
class Tube:
    """A grounded object: a half-open span of native frames and one box on each of them.

    Args:
        start: first native frame index.
        stop: one past the last native frame index.
        boxes: (stop - start, 4), xyxy, native pixels. In a true tube, a row of NaN is a frame that counts nowhere, and
            a box may be as bad as it was published: one without an area overlaps nothing.

    Raises:
        ValueError: the span is empty or negative, or there is not one box per frame.
    """

    start: int
    stop: int
    boxes: Tensor

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"a tube needs 0 <= start < stop, got start {self.start} and stop {self.stop}")
        expected = (self.stop - self.start, 4)
        if tuple(self.boxes.shape) != expected:
            raise ValueError(
                f"a tube over [{self.start}, {self.stop}) needs boxes {expected}, got {tuple(self.boxes.shape)}"
            )

    def __len__(self) -> int:
        return self.stop - self.start

    def __reduce__(self) -> tuple[Callable[..., Tube], tuple[Any, ...]]:
        # By value: PyTorch would keep the boxes of each tube that a loader's process sends in shared memory, behind an
        # open file of its own, as long as that process lives; a thousand clips would use up what a process may open.
        return _tube_of_array, (self.start, self.stop, self.boxes.detach().cpu().numpy())


def _tube_of_array(start: int, stop: int, boxes: np.ndarray) -> Tube:
    return Tube(start, stop, torch.from_numpy(boxes))


@dataclass(frozen=True, slots=True)
class Degradation:
    """One draw of the degradation pipeline: what is done to a clip, how strongly, and with which random numbers.

    Args:
        kind: ``motion_blur``, ``defocus``, ``low_light`` or ``resolution``; in a test also ``compression``, ``noise``
            or ``partial``.
        severity: 1 (mild) to 5 (severe).
        seed: fixes every parameter that the severity leaves open (angles, sigmas), once for the whole clip.
        kernels: ``relative`` scales lengths with the short side of the frame, so that a severity means the same at
            every size; ``absolute`` gives frames of all sizes kernels of the same pixels.
    """

    kind: str
    severity: int
    seed: int
    kernels: Kernels = "relative"

    def __str__(self) -> str:
        return f"{self.kind}:{self.severity}"


@dataclass(frozen=True, slots=True)
class _TensorHolder:
    """Tensors that are moved together. Lightning calls ``to``; it refuses to look inside a frozen dataclass."""

    def changed(self, change: Callable[[Tensor], Tensor]) -> Self:
        """With something done to each tensor, those of what it holds included."""

        def changed(value: Any) -> Any:
            if isinstance(value, _TensorHolder):
                return value.changed(change)
            return change(value) if isinstance(value, Tensor) else value

        return type(self)(**{f.name: changed(getattr(self, f.name)) for f in fields(self)})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        return self.changed(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def share_memory_(self) -> Self:
        return self.changed(lambda tensor: tensor.share_memory_())

    def pin_memory(self) -> Self:
        return self.changed(lambda tensor: tensor.pin_memory())


@dataclass(frozen=True, slots=True)
class BackboneFeatures(_TensorHolder):
    """What the frozen visual encoders say of a batch of clips, before any trainable projection.

    Args:
        appearance: (B, T, C_a, h, w), from the image encoder, frame by frame.
        motion: (B, T, C_m, h, w), from the video encoder; ``None`` where the model has none.
        cell_mask: (B, h, w) bool, True on cells that belong to the clip and not to the batch's padding.
    """

    appearance: Tensor
    motion: Tensor | None
    cell_mask: Tensor

    @property
    def maps(self) -> tuple[Tensor, ...]:
        """Appearance, and motion where there is one."""
        return (self.appearance,) if self.motion is None else (self.appearance, self.motion)

    @classmethod
    def of(cls, appearance: Tensor, motion: Tensor | None = None, *, cell_mask: Tensor) -> BackboneFeatures:
        """From :attr:`maps`."""
        return cls(appearance, motion, cell_mask)

    def unpadded(self, index: int, length: int) -> BackboneFeatures:
        """One clip of ``length`` frames, as if it were alone: B = 1 and no padding."""
        rows, columns = int(self.cell_mask[index, :, 0].sum()), int(self.cell_mask[index, 0].sum())
        clip = slice(index, index + 1)
        maps = (maps[clip, :length, :, :rows, :columns] for maps in self.maps)
        return BackboneFeatures.of(*maps, cell_mask=self.cell_mask[clip, :rows, :columns])

    def replaced(self, clips: Tensor, others: BackboneFeatures) -> BackboneFeatures:
        """These features with some clips' replaced by other features of the same clips.

        Args:
            clips: (C,) indices, int64.
            others: with B = C; padded no wider than these.
        """

        def put(ours: Tensor, theirs: Tensor) -> Tensor:
            padding = [
                size
                for own, other in zip(ours.shape[:0:-1], theirs.shape[:0:-1], strict=True)
                for size in (0, own - other)
            ]
            return ours.index_copy(0, clips, F.pad(theirs, padding))

        maps = (put(ours, theirs) for ours, theirs in zip(self.maps, others.maps, strict=True))
        return BackboneFeatures.of(*maps, cell_mask=put(self.cell_mask, others.cell_mask))


@dataclass(frozen=True, slots=True)
class ClipInfo:
    """What is known of a sample besides its pixels.

    Args:
        item_id: identifies the sentence-and-clip pair; its HQ and its LQ version share it.
        query: the sentence.
        sentence_type: declarative or interrogative.
        quality: HQ or LQ.
        degradation: what made the clip LQ, ``None`` for HQ.
        frame_ids: T native indices of the sampled frames, strictly increasing.
        target: the true tube.
        native_size: (H, W) of the video file.
        native_length: number of frames of the video file.
        fps: native frames per second.
        video: path of the video file.
    """

    item_id: str
    query: str
    sentence_type: SentenceType
    quality: Quality
    degradation: Degradation | None
    frame_ids: tuple[int, ...]
    target: Tube
    native_size: tuple[int, int]
    native_length: int
    fps: float
    video: str

    def __post_init__(self) -> None:
        if (self.quality is Quality.LQ) != (self.degradation is not None):
            raise ValueError(f"clip '{self.item_id}' is {self.quality.name} but its degradation is {self.degradation}")
        if any(b <= a for a, b in zip(self.frame_ids, self.frame_ids[1:], strict=False)):
            raise ValueError(f"frame ids of clip '{self.item_id}' must increase strictly, got {self.frame_ids}")

    @property
    def condition(self) -> str:
        """How it is shown, as files of predictions name it: ``HQ``, or kind and severity of its degradation."""
        return self.quality.name if self.degradation is None else str(self.degradation)


@dataclass(frozen=True, slots=True)
class QualityClip:
    """A clip of which nothing is known but its quality; exactly one of ``frames`` and ``features`` is set.

    Args:
        frames: (T, 3, H, W) float32, normalised; or uint8, to be finished on the device.
        features: cached backbone features, with B = 1.
        quality: HQ or LQ.
    """

    frames: Tensor | None
    features: BackboneFeatures | None
    quality: Quality


@dataclass(frozen=True, slots=True)
class Clip:
    """One grounding sample as the network sees it, with its answer.

    Exactly one of ``frames`` and ``features`` is set: features stand in for the frames where a cache holds them.

    Args:
        info: everything but tensors.
        frames: (T, 3, H, W) float32, normalised; or uint8, to be finished on the device.
        features: cached backbone features of those frames, with B = 1.
        boxes: (T, 4) float32, the target on each sampled frame, cxcywh in units of the frame; zeros outside, and where
            no box counts.
        inside: (T,) bool, True on sampled frames that the target covers.
        twin: the same frames in high quality, where that is asked for and the clip is degraded.
        extra: clips that come with this one, for their quality alone.
    """

    info: ClipInfo
    frames: Tensor | None
    features: BackboneFeatures | None
    boxes: Tensor
    inside: Tensor
    twin: Clip | None = None
    extra: tuple[QualityClip, ...] = ()

    def __post_init__(self) -> None:
        name, length = self.info.item_id, len(self.info.frame_ids)
        if (self.frames is None) == (self.features is None):
            raise ValueError(f"clip '{name}' needs frames or cached features, and not both")
        if self.boxes.shape != (length, 4) or self.inside.shape != (length,):
            raise ValueError(
                f"clip '{name}' has {length} sampled frames, but boxes {tuple(self.boxes.shape)} "
                f"and inside {tuple(self.inside.shape)}"
            )
        if self.frames is not None and (self.frames.ndim != 4 or self.frames.shape[:2] != (length, 3)):
            raise ValueError(f"frames of clip '{name}' must be ({length}, 3, H, W), got {tuple(self.frames.shape)}")
        if self.features is not None and (held := self.features.appearance.shape[1]) != length:
            raise ValueError(
                f"clip '{name}' has {length} sampled frames, but its cached features are of {held}: its annotation has "
                "changed since; delete the cache, and build it again with `python -m stvg_nst cache features`"
            )


def with_box(boxes: Tensor, inside: Tensor) -> Tensor:
    """(..., T) bool: frames whose true box teaches, which lie inside the target and have a box with an area.

    Args:
        boxes: (..., T, 4) cxcywh.
        inside: (..., T) bool.
    """
    return inside & (boxes[..., 2:] > 0).all(-1)


@dataclass(frozen=True, slots=True)
class StepTotals:
    """What all batches of an optimiser step hold, in all processes.

    Args:
        clips: their number.
        boxes: true boxes that teach, by :func:`with_box`.
    """

    clips: int
    boxes: int


@dataclass(frozen=True, slots=True)
class Batch(_TensorHolder):
    """Clips of possibly different lengths and sizes, padded at the end of time and at the right and bottom.

    Args:
        clips: what is known of each clip besides tensors.
        frames: (B, T, 3, H, W) float32, normalised, or ``None`` where features come from a cache. On the way to a
            device they may be uint8, at the size of the video; the data module then finishes them there.
        features: cached backbone features, or ``None``.
        frame_mask: (B, T) bool, True on real frames.
        frame_sizes: (H, W) of each clip's frames before padding; empty with cached features.
        boxes: (B, T, 4) float32, cxcywh in units of the frame; zeros outside the target and on padding.
        inside: (B, T) bool.
        qualities: (B,) int64, values of :class:`Quality`.
        twins: the low-quality clips in high quality, in their order, where that is asked for and there are any.
        extra: further clips, for their quality alone, where that is asked for.
        step: of the optimiser step that this batch is one of several of; ``None`` where it is the whole step, or where
            nobody has counted.
    """

    clips: tuple[ClipInfo, ...]
    frames: Tensor | None
    features: BackboneFeatures | None
    frame_mask: Tensor
    frame_sizes: tuple[tuple[int, int], ...]
    boxes: Tensor
    inside: Tensor
    qualities: Tensor
    twins: Batch | None = None
    extra: QualityBatch | None = None
    step: StepTotals | None = None

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def queries(self) -> tuple[str, ...]:
        return tuple(clip.query for clip in self.clips)


@dataclass(frozen=True, slots=True)
class QualityBatch(_TensorHolder):
    """Clips of which nothing is known but their quality, padded as in a :class:`Batch`, whose fields these are."""

    frames: Tensor | None
    features: BackboneFeatures | None
    frame_mask: Tensor
    frame_sizes: tuple[tuple[int, int], ...]
    qualities: Tensor

    def __len__(self) -> int:
        return len(self.qualities)


@dataclass(frozen=True, slots=True)
class SceneBatch(_TensorHolder):
    """Clips with everything that is in them: A actors a clip, some of which are padding.

    Args:
        frames: (B, T, 3, H, W) float32, normalised.
        boxes: (B, A, T, 4), cxcywh in units of the frame.
        looks: (B, A, number of attributes) int64, e.g. shape, colour, size; -1 on padding.
        actions: (B, A, T) int64; -1 on padding.
    """

    frames: Tensor
    boxes: Tensor
    looks: Tensor
    actions: Tensor

    def __len__(self) -> int:
        return len(self.frames)


@dataclass(frozen=True, slots=True)
class FusedTokens:
    """Video and sentence joined, frame by frame, ahead of the decoders.

    Args:
        tokens: (B, T, M, D).
        mask: (B, 1 or T, M) bool, True on real tokens.
    """

    tokens: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundingOutput:
    """The network's answer after each of its S decoder stages; the last stage is the prediction.

    Every grounder says boxes and where the tube starts and ends. What it does not say besides is ``None``.

    Args:
        boxes: (S, B, T, 4), cxcywh in units of the frame, in [0, 1].
        start_end: (S, B, T, 2), logits of each frame being the first, and the last, of the tube.
        frame_mask: (B, T) bool, True on real frames.
        confidence: (S, B, T), in (0, 2): the sum of an appearance and a motion score of the box.
        actioness: (S, B, T), logits of each frame lying inside the tube.
        time_attention: (S, B, T, T), how much each frame's query (third axis) looks at each other frame's; a mean over
            heads, after dropout.
        fused: the tokens that the decoders were given.
    """

    boxes: Tensor
    start_end: Tensor
    frame_mask: Tensor
    confidence: Tensor | None = None
    actioness: Tensor | None = None
    time_attention: Tensor | None = None
    fused: FusedTokens | None = None

    @property
    def answers(self) -> dict[str, Tensor]:
        """What is said of each frame, by name: boxes, start and end, and what else the model says."""
        named = {
            "boxes": self.boxes,
            "confidence": self.confidence,
            "start_end": self.start_end,
            "actioness": self.actioness,
        }
        return {name: value for name, value in named.items() if value is not None}
