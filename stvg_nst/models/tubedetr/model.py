"""TubeDETR (Yang et al., CVPR 2022): spatio-temporal grounding with transformers, written from a specification."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stvg_nst.inference import InferenceProtocol
from stvg_nst.losses import GroundingLoss
from stvg_nst.models.base import Grounder, ReferencePoint, TokenGrid, frozen_layer
from stvg_nst.models.blocks.clips import cell_tokens, encode_clips
from stvg_nst.models.blocks.decoder import FrameDecoder, FrameMemory
from stvg_nst.models.blocks.encoder import CrossModalEncoder
from stvg_nst.models.blocks.image import ImageEncoder
from stvg_nst.models.blocks.kept import kept_tokens
from stvg_nst.models.blocks.layers import MLP, Attention
from stvg_nst.models.blocks.positions import grid_positions
from stvg_nst.models.blocks.text import TextEncoder, TokenIds
from stvg_nst.types import BackboneFeatures, FusedTokens, GroundingOutput

MOST_FRAMES = 200  # rows of the original's table of times


class TubeDETR(Grounder):
    """A video and a sentence in, a box and the start and end logits of each sampled frame out.

    The cross-modal encoder sees every ``stride``-th frame. What it says of one stands for the frames behind it, up to
    the next, and the fast branch corrects it by each frame's own cells.

    Args:
        visual: image encoder, frame by frame.
        text: sentence encoder; its width is the width of the grounding model.
        stride: frames from one that the cross-modal encoder sees to the next. No weight tells it.
        num_heads: attention heads of the encoder and the decoder.
        hidden: width of the feed-forward layers.
        encoder_depth, decoder_depth: layers.
        dropout: probability on attention weights and residuals, in training.
        head_dropout: probability in the head of start and end, in training.
        recompute_encoder: in training, compute the layers of the cross-modal encoder anew in the backward pass instead
            of keeping what they compute: less memory for more time, with the same gradients. Adapters in these layers
            run twice.
        recompute_decoder: the same for the layers of the decoder.

    Raises:
        ValueError: the stride is not positive.
    """

    tunable = ("encoder", "fast_*", "decoder", "*_head")

    def __init__(
        self,
        visual: ImageEncoder,
        text: TextEncoder,
        *,
        stride: int = 5,
        num_heads: int = 8,
        hidden: int = 2048,
        encoder_depth: int = 6,
        decoder_depth: int = 6,
        dropout: float = 0.1,
        head_dropout: float = 0.5,
        recompute_encoder: bool = False,
        recompute_decoder: bool = False,
    ) -> None:
        super().__init__()
        if stride < 1:
            raise ValueError(f"stride must be at least 1 frame, got {stride}")
        self.width = width = text.projection.out_features
        self.stride = stride
        self.visual = visual
        self.feature_channels = (visual.channels,)
        self.text = text
        self.visual_proj = nn.Linear(visual.channels, width)
        self.reference_point = ReferencePoint()

        self.encoder = CrossModalEncoder(
            encoder_depth, width, num_heads, hidden, dropout, norm=False, recompute=recompute_encoder
        )
        self.fast_encoder = nn.Linear(width, width)
        self.fast_residual = nn.Linear(width, width)
        self.query = nn.Embedding(1, width)
        self.decoder = FrameDecoder(
            decoder_depth,
            width,
            num_heads,
            hidden,
            dropout,
            placed=True,
            keep_attention=True,
            recompute=recompute_decoder,
        )
        self.box_head = MLP((width, width, width, 4))
        self.start_end_head = MLP((width, width, 2), head_dropout)
        self._initialise()

    def _initialise(self) -> None:
        """As the original, whose three projections of an attention are one matrix."""
        for module in (*self.encoder.modules(), *self.decoder.modules()):
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        for module in (*self.encoder.modules(), *self.decoder.modules()):
            if isinstance(module, Attention):
                for projection in (module.q_proj, module.k_proj, module.v_proj):
                    nn.init.xavier_uniform_(projection.weight, gain=0.5**0.5)
                    nn.init.zeros_(projection.bias)
                nn.init.zeros_(module.out_proj.bias)
        # The fast branch corrects nothing at first.
        nn.init.zeros_(self.fast_residual.weight)
        nn.init.zeros_(self.fast_residual.bias)

    def backbones(self) -> tuple[nn.Module, ...]:
        return (self.visual,)

    def fusion(self) -> tuple[nn.Module, ...]:
        return self.text, self.visual_proj, self.encoder, self.fast_encoder, self.fast_residual

    def require_inference(self, protocol: InferenceProtocol) -> None:
        if protocol != "single_pass":
            raise ValueError(
                f"TubeDETR is shown all frames of a clip at once, got {protocol}: halves of a clip would have other "
                f"frames in its encoder and other distances in time than it was trained with; give single_pass"
            )

    def objective(self) -> GroundingLoss:
        return GroundingLoss(
            giou=2.0, confidence=0.0, actioness=0.0, guided_attention=1.0, boundary_sigma=1.0, without_tube="uniform"
        )

    def query_faults(self, queries: Sequence[str]) -> dict[int, str]:
        return self.text.query_faults(queries)

    def encode(
        self, frames: Tensor, frame_mask: Tensor, frame_sizes: Sequence[tuple[int, int]] | None = None
    ) -> BackboneFeatures:
        """Features of every frame as if its clip were alone, padded to the largest."""
        sizes = frame_sizes or [(frames.shape[-2], frames.shape[-1])] * len(frames)
        return encode_clips(frames, frame_mask, sizes, self.visual)

    def ground(
        self, features: BackboneFeatures, frame_mask: Tensor, queries: Sequence[str] | TokenIds
    ) -> GroundingOutput:
        """Grounds sentences in encoded clips.

        Args:
            queries: sentences, or what the tokenizer makes of them.

        Raises:
            ValueError: a clip has more frames than the model was trained to tell apart.
        """
        num_frames = frame_mask.shape[1]
        if num_frames > MOST_FRAMES:
            raise ValueError(
                f"TubeDETR tells at most {MOST_FRAMES} sampled frames of a clip apart, got {num_frames}; sample fewer "
                "frames, or show the film in shorter windows"
            )
        memory = self._remember(features, frame_mask, queries)
        learned = self.query(torch.zeros(1, dtype=torch.int64, device=frame_mask.device))
        position = learned + time_codes(num_frames, self.width, frame_mask.device)
        decoded = self.decoder(memory, position)
        # Stage by stage, so that a tuned head sees the clip on its first axis.
        return GroundingOutput(
            # In full precision under autocast too: half of it would move boxes by pixels.
            boxes=torch.stack([self.box_head(state).float().sigmoid() for state in decoded.states]),
            start_end=torch.stack([self.start_end_head(state) for state in decoded.states]),
            frame_mask=frame_mask,
            time_attention=decoded.time_attention,
            fused=FusedTokens(memory.tokens, memory.token_mask),
        )

    def fuse(self, features: BackboneFeatures, frame_mask: Tensor, queries: Sequence[str]) -> FusedTokens:
        memory = self._remember(features, frame_mask, queries)
        return FusedTokens(memory.tokens, memory.token_mask)

    def _remember(
        self, features: BackboneFeatures, frame_mask: Tensor, queries: Sequence[str] | TokenIds
    ) -> FrameMemory:
        """The memory of each frame: the slow encoder's, corrected by the fast branch."""
        num_frames = frame_mask.shape[1]
        text, text_mask = self.text(queries)
        maps = cell_tokens(features.appearance)
        slow = self._slow_frames(num_frames, maps.device)
        token_mask = torch.cat((features.cell_mask.flatten(1), text_mask), dim=1)[:, None]
        cell_mask = features.cell_mask.flatten(1)[:, None].expand(-1, num_frames, -1)
        grids = [TokenGrid(cell_mask)]
        if self.stride > 1 and num_frames > 1:  # else the encoder's inputs are those of the memory
            grids.append(TokenGrid(token_mask.expand(-1, slow.shape[0], -1), slow))
        positions = self._positions(features.cell_mask, text)
        projection = self.visual_proj
        frozen = frozen_layer(projection)(maps.detach())
        self.reference_point(
            visual=frozen,
            visual_mask=cell_mask,
            text=text,
            text_mask=text_mask,
            frame_mask=frame_mask,
            memory_mask=token_mask.expand(-1, num_frames, -1),
            features=features,
            inputs=tuple(grids),
        )
        if self.encodings is not None and not isinstance(queries, TokenIds):
            tokens = kept_tokens(
                self.encodings,
                features,
                frame_mask,
                queries,
                self.text,
                token_mask=token_mask,
                width=self.width,
                fuse=self._fuse_alone,
            )
        else:
            # What is tuned around the projection may read the reference, and so it runs behind it.
            cells = frozen if frozen_layer(projection) is projection else projection(maps.detach())
            # The fast branch teaches the projection and not the image encoder, as in the original.
            slow_cells = projection(maps[:, slow]) if maps.requires_grad else cells[:, slow]
            tokens = self._fuse(slow_cells, cells, text, positions, token_mask)
        return FrameMemory(tokens, positions, token_mask, frame_mask)

    def _slow_frames(self, num_frames: int, device: torch.device) -> Tensor:
        return torch.arange(0, num_frames, self.stride, device=device)

    def _positions(self, cell_mask: Tensor, text: Tensor) -> Tensor:
        """(B, 1, M, D): of cells; words have none."""
        return torch.cat((grid_positions(cell_mask, self.width), torch.zeros_like(text)), dim=1)[:, None]

    def _fuse(self, slow_cells: Tensor, cells: Tensor, text: Tensor, positions: Tensor, token_mask: Tensor) -> Tensor:
        """The tokens (B, T, M, D) of all frames, of cells (B, n, N, D) of the slow ones and (B, T, N, D) of all."""
        words = text[:, None].expand(-1, slow_cells.shape[1], -1, -1)
        encoded = self.encoder(torch.cat((slow_cells, words), dim=2), positions, token_mask)
        last_slow = torch.arange(cells.shape[1], device=cells.device) // self.stride
        seen, said = encoded[:, last_slow].split((cells.shape[2], text.shape[1]), dim=2)
        corrected = seen + self.fast_residual(seen + self.fast_encoder(cells))
        return torch.cat((corrected, said), dim=2)

    def _fuse_alone(self, clip: BackboneFeatures, query: str) -> Tensor:
        """The tokens (T, M, D) of one clip without padding."""
        text, text_mask = self.text([query])
        cells = self.visual_proj(cell_tokens(clip.appearance))
        slow_cells = cells[:, self._slow_frames(cells.shape[1], cells.device)]
        token_mask = torch.cat((clip.cell_mask.flatten(1), text_mask), dim=1)[:, None]
        return self._fuse(slow_cells, cells, text, self._positions(clip.cell_mask, text), token_mask)[0]


def time_codes(length: int, width: int, device: torch.device) -> Tensor:
    """Sine code of the sampled frames 0 .. length - 1, (length, width), rounded as in the original.

    :func:`stvg_nst.models.blocks.positions.time_positions` is the same code by other arithmetic, off by 1e-5 at frame
    199.
    """
    frequencies = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10000.0) / width))
    angles = torch.arange(length, device=device)[:, None] * frequencies
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)
