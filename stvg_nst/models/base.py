"""What every grounding model offers to the rest of the suite, and the one place where a tuner may look inside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from stvg_nst.inference import InferenceProtocol
from stvg_nst.losses import GroundingLoss
from stvg_nst.models.encoding_store import KeptEncodings
from stvg_nst.queries import query_fault
from stvg_nst.types import BackboneFeatures, FusedTokens, GroundingOutput


@dataclass(frozen=True, slots=True, eq=False)
class TokenGrid:
    """Which tokens of a layer's input are real, and which of the clip's frames they are of.

    Args:
        mask: (B, F) bool for an input (B, F, d_in), (B, F, N) for one (B, F, N, d_in); True on real tokens.
        frames: (F,) int64, the sampled frame of each of the F; ``None`` where these are all sampled frames in order.
    """

    mask: Tensor
    frames: Tensor | None = None

    def of_clips(self, clips: Tensor) -> TokenGrid:
        """The grid of some clips only, by their indices."""
        return TokenGrid(self.mask[clips], self.frames)

    def along_frames(self, values: Tensor) -> Tensor:
        """Values of clips (B,) as they are, those of sampled frames (B, T) as values of the grid's frames, (B, F)."""
        return values if values.ndim == 1 or self.frames is None else values[:, self.frames]


def grid_of(grids: Sequence[TokenGrid], x: Tensor, layer: str) -> TokenGrid:
    """The grid of a layer's input x (B, F, d_in) or (B, F, N, d_in), told by its shape.

    Raises:
        ValueError: x has the shape of none of them.
    """
    for grid in grids:
        if x.shape[:-1] == grid.mask.shape:
            return grid
    known = ", ".join(str(tuple(grid.mask.shape)) for grid in grids)
    raise ValueError(
        f"the input of '{layer}' must lead with one of {known}, got {tuple(x.shape)}: its padding is unknown; take "
        f"'{layer}' out of --model.tuner.init_args.targets"
    )


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The clip and the sentence as the grounding model sees them before its first tunable layer.

    ``memory`` is what the model's frame-wise layers work on: the M tokens of each frame, visual and textual together.

    Args:
        visual: (B, T, N, D), D being the grounding model's width.
        visual_mask: (B, T, N) bool, True on real tokens.
        text: (B, L, D).
        text_mask: (B, L) bool, True on real tokens.
        frame_mask: (B, T) bool, True on real frames.
        memory_mask: (B, T, M) bool, True on real tokens of the memory.
        features: what the visual tokens were made of, where the model hands it over.
        inputs: masks (B, F, N) of the inputs of layers that the visual tokens come from, where these may be tuned.

    Raises:
        ValueError: the shapes disagree.
    """

    visual: Tensor
    visual_mask: Tensor
    text: Tensor
    text_mask: Tensor
    frame_mask: Tensor
    memory_mask: Tensor
    features: BackboneFeatures | None = None
    inputs: tuple[TokenGrid, ...] = ()

    def __post_init__(self) -> None:
        if self.visual.ndim != 4 or self.text.ndim != 3:
            raise ValueError(
                f"a reference needs visual tokens (B, T, N, D) and text tokens (B, L, D), "
                f"got {tuple(self.visual.shape)} and {tuple(self.text.shape)}"
            )
        batch, frames, tokens, width = self.visual.shape
        expected = {
            "visual_mask": (batch, frames, tokens),
            "text": (batch, self.text.shape[1], width),
            "text_mask": (batch, self.text.shape[1]),
            "frame_mask": (batch, frames),
            "memory_mask": (batch, frames, self.memory_mask.shape[-1]),
        }
        for name, shape in expected.items():
            if (got := tuple(getattr(self, name).shape)) != shape:
                raise ValueError(f"visual tokens {tuple(self.visual.shape)} need {name} {shape}, got {got}")
        shapes = [tuple(mask.shape) for mask in (self.frame_mask, self.memory_mask)]
        for grid in self.inputs:
            length, shape = frames if grid.frames is None else grid.frames.shape[0], tuple(grid.mask.shape)
            if shape[:-1] != (batch, length):
                raise ValueError(f"an input of {length} frames needs a mask ({batch}, {length}, N), got {shape}")
            if shape in shapes:
                raise ValueError(f"the inputs of layers are told apart by their shapes, got {shape} twice")
            shapes.append(shape)

    @property
    def grids(self) -> tuple[TokenGrid, ...]:
        """Where tokens of layers' inputs are real: of one token a frame, of the memory, and of :attr:`inputs`."""
        frame_mask = self.frame_mask
        inputs = (TokenGrid(grid.mask & grid.along_frames(frame_mask)[..., None], grid.frames) for grid in self.inputs)
        return TokenGrid(frame_mask), TokenGrid(self.memory_mask & frame_mask[..., None]), *inputs


class ReferencePoint(nn.Module):
    """An identity that a grounding model calls once per :meth:`Grounder.ground`, before any tunable layer runs.

    It computes nothing: it exists so that a tuner can register a forward hook on it, and thereby read the tokens of
    the model's width without the model knowing of any tuner.
    """

    def forward(
        self,
        visual: Tensor,
        visual_mask: Tensor,
        text: Tensor,
        text_mask: Tensor,
        frame_mask: Tensor,
        memory_mask: Tensor,
        features: BackboneFeatures | None = None,
        inputs: tuple[TokenGrid, ...] = (),
    ) -> Reference:
        """Bundle the tokens; shapes as in :class:`Reference`."""
        return Reference(visual, visual_mask, text, text_mask, frame_mask, memory_mask, features, inputs)


def frozen_layer(layer: nn.Module) -> nn.Module:
    """A layer as it was before a tuner put something around it; the layer itself where none did."""
    frozen: nn.Module = getattr(layer, "base_layer", layer)
    return frozen


class TokenLayer(nn.Module, ABC):
    """A layer in which the tokens of each frame attend to each other, the visual ones among them.

    It marks where a tuner may put tokens of its own in front.
    """

    width: int
    """D, the width of the tokens."""

    @abstractmethod
    def forward(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Tokens (B, T, M, D) to as many; positions (B, 1, M, D), mask (B, 1 or T, M) True on real tokens."""


class Grounder(nn.Module, ABC):
    """A model that finds the tube of a sentence in a clip; it never sees a target, a label or a data set's name.

    Contract with the tuners: every ``nn.Linear`` that may be tuned is called through its forward (nothing reads its
    ``.weight``) on an input whose first axis is the clip, and exactly one :class:`ReferencePoint` is called per
    :meth:`ground`, ahead of them. A layer that the reference's visual tokens come from may be tuned, too: these tokens
    are those of its :func:`frozen_layer`, and what a tuner put around it is called behind the reference point.
    Null-space tuning moreover reads which positions of that input are real from its shape: it takes (B, T, d), one
    token a frame, (B, T, M, d), the memory, and the inputs that the reference names, and refuses any other.
    Prompts stand in front of the tokens of each :class:`TokenLayer`.
    """

    width: int
    """D, the width of the tokens at the reference point."""

    feature_channels: tuple[int, ...] = ()
    """C_a and C_m, the channels of what :meth:`encode` says; a router that reads these features asks for them."""

    tunable: tuple[str, ...] = ("*",)
    """Patterns of the modules that `layers` lists unless it is told otherwise: those behind the encoders."""

    encodings: KeptEncodings | None = None
    """See :meth:`keep_encodings`."""

    @abstractmethod
    def backbones(self) -> tuple[nn.Module, ...]:
        """The visual encoders that :meth:`encode` runs, fingerprinted by caches; frozen unless named to be tuned."""

    def fusion(self) -> tuple[nn.Module, ...]:
        """What joins video and sentence ahead of the decoders; nothing where the model cannot keep encodings."""
        return ()

    def fuse(self, features: BackboneFeatures, frame_mask: Tensor, queries: Sequence[str]) -> FusedTokens:
        """What :meth:`fusion` makes of clips and sentences: the tokens that :meth:`ground` gives to the decoders.

        Raises:
            ValueError: the model has no such part.
        """
        raise ValueError(f"{type(self).__name__} has no tokens ahead of its decoders; give --model.twin 0")

    def keep_encodings(self, kept: KeptEncodings) -> None:
        """From now on, take what :meth:`fusion` says of a clip and a sentence from ``kept``, where it is computed once.

        Only right while nothing of :meth:`fusion` is tuned, and of use where clips come back with the same features.
        Each is encoded alone and in float32, so that what is kept does not depend on the batch.

        Raises:
            ValueError: the model has no part whose output it could keep.
        """
        if not self.fusion():
            raise ValueError(f"{type(self).__name__} cannot keep encodings; leave out --model.encodings")
        self.encodings = kept

    def require_inference(self, protocol: InferenceProtocol) -> None:
        """Refuses a way to be shown clips that the model is not made for; any will do unless the model says otherwise.

        Raises:
            ValueError: with the reason.
        """

    def objective(self) -> GroundingLoss:
        """What the model was trained by, and so what a run minimises unless ``--model.loss`` names something else.

        Raises:
            ValueError: the model names none.
        """
        raise ValueError(f"{type(self).__name__} names no objective of its own; give --model.loss")

    def query_faults(self, queries: Sequence[str]) -> dict[int, str]:
        """What is wrong with the queries that :meth:`ground` would refuse, by index, in words that follow "which".

        A grounder whose text encoder takes only so much, or not every text, says so here, ahead of any clip.
        """
        return {index: fault for index, query in enumerate(queries) if (fault := query_fault(query))}

    @abstractmethod
    def encode(self, frames: Tensor, frame_mask: Tensor, frame_sizes: Sequence[tuple[int, int]]) -> BackboneFeatures:
        """Run the visual backbones; while these are frozen, the result depends on no tunable weight and may be cached.

        Args:
            frames: (B, T, 3, H, W), normalised, padded at the end of time and at the right and bottom.
            frame_mask: (B, T) bool, True on real frames.
            frame_sizes: (H, W) of each clip in network pixels before padding.
        """

    @abstractmethod
    def ground(self, features: BackboneFeatures, frame_mask: Tensor, queries: Sequence[str]) -> GroundingOutput:
        """Find the tubes of ``queries`` (one a clip) from the backbones' features; frame_mask is (B, T) bool."""

    def forward(
        self,
        frames: Tensor,
        frame_mask: Tensor,
        queries: Sequence[str],
        frame_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> GroundingOutput:
        """From pixels to tubes; without ``frame_sizes`` every clip fills its frames."""
        if frame_sizes is None:
            height, width = frames.shape[-2:]
            frame_sizes = [(height, width)] * len(frames)
        return self.ground(self.encode(frames, frame_mask, frame_sizes), frame_mask, queries)
