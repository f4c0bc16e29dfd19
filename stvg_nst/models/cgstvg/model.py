"""CG-STVG (Gu et al., CVPR 2024): context-guided spatio-temporal video grounding, written from a specification.

One class for the full-size model and for the embedded miniature; they differ by configuration only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stvg_nst.losses import GroundingLoss
from stvg_nst.models.base import Grounder, ReferencePoint, TokenGrid, frozen_layer
from stvg_nst.models.blocks.clips import cell_tokens, encode_clips
from stvg_nst.models.blocks.decoder import FrameDecoder
from stvg_nst.models.blocks.encoder import CrossModalEncoder
from stvg_nst.models.blocks.image import ImageEncoder
from stvg_nst.models.blocks.kept import kept_tokens
from stvg_nst.models.blocks.layers import MLP
from stvg_nst.models.blocks.positions import grid_positions, time_positions
from stvg_nst.models.blocks.text import TextEncoder, TokenIds
from stvg_nst.models.cgstvg.decoder import BoxDecoder, ContextRule, Memory
from stvg_nst.models.cgstvg.motion import VideoEncoder
from stvg_nst.types import BackboneFeatures, FusedTokens, GroundingOutput


class CGSTVG(Grounder):
    """A video and a sentence in, a box and the start, end and actioness logits of each sampled frame out.

    Args:
        visual: image encoder, frame by frame.
        motion: video encoder; its grid must equal the image encoder's.
        text: sentence encoder; its width is the width of the grounding model.
        num_heads: attention heads of the encoder and the decoders.
        hidden: width of the feed-forward layers.
        encoder_depth: layers of the cross-modal encoder.
        decoder_depth: layers of the time decoder, and of the box decoder.
        dropout: probability on attention weights and residuals, in training.
        head_dropout: probability in the temporal and confidence heads, in training.
        actioness_threshold: a frame gives context if its actioness *logit* exceeds this ...
        confidence_threshold: ... and its confidence, in (0, 2), exceeds this.
        recompute_encoder: in training, compute the layers of the cross-modal encoder anew in the backward pass instead
            of keeping what they compute: less memory for more time, with the same gradients. Adapters in these layers
            run twice.
        recompute_decoders: the same for the layers of both decoders.

    Raises:
        ValueError: the two visual encoders disagree on the stride.
    """

    tunable = ("encoder", "time_decoder", "box_decoder", "*_head")

    def __init__(
        self,
        visual: ImageEncoder,
        motion: VideoEncoder,
        text: TextEncoder,
        *,
        num_heads: int = 8,
        hidden: int = 2048,
        encoder_depth: int = 6,
        decoder_depth: int = 6,
        dropout: float = 0.1,
        head_dropout: float = 0.3,
        actioness_threshold: float = 0.5,
        confidence_threshold: float = 0.8,
        recompute_encoder: bool = False,
        recompute_decoders: bool = False,
    ) -> None:
        super().__init__()
        if visual.stride != motion.stride:
            raise ValueError(
                f"image and video encoder must have the same stride, got {visual.stride} and {motion.stride}"
            )
        self.width = width = text.projection.out_features
        self.actioness_threshold = actioness_threshold
        self.confidence_threshold = confidence_threshold

        self.visual = visual
        self.motion = motion
        self.feature_channels = (visual.channels, motion.channels)
        self.text = text
        self.visual_proj = nn.Linear(visual.channels, width)
        self.motion_proj = nn.Linear(motion.channels, width)
        self.reference_point = ReferencePoint()

        self.encoder = CrossModalEncoder(encoder_depth, width, num_heads, hidden, dropout, recompute=recompute_encoder)
        self.time_decoder = FrameDecoder(decoder_depth, width, num_heads, hidden, dropout, recompute=recompute_decoders)
        self.anchor_head = nn.Sequential(
            nn.LayerNorm(width, eps=1e-12),
            nn.Dropout(dropout),
            nn.Linear(width, 4),
            nn.ReLU(),
            nn.LayerNorm(4, eps=1e-12),
        )
        self.box_decoder = BoxDecoder(
            decoder_depth, width, num_heads, hidden, dropout, head_dropout, recompute=recompute_decoders
        )
        self.start_end_head = MLP((width, width, 2), head_dropout)
        self.actioness_head = MLP((width, width, 1), head_dropout)
        for module in (self.encoder, self.time_decoder, self.box_decoder, self.anchor_head):
            for parameter in module.parameters():
                if parameter.ndim > 1:
                    nn.init.xavier_uniform_(parameter)

    def backbones(self) -> tuple[nn.Module, ...]:
        return self.visual, self.motion

    def fusion(self) -> tuple[nn.Module, ...]:
        return self.text, self.visual_proj, self.motion_proj, self.encoder

    def objective(self) -> GroundingLoss:
        """The original's on HC-STVG; the overlays of its VidSTG weights name that of VidSTG."""
        return GroundingLoss()

    def query_faults(self, queries: Sequence[str]) -> dict[int, str]:
        return self.text.query_faults(queries)

    def encode(
        self, frames: Tensor, frame_mask: Tensor, frame_sizes: Sequence[tuple[int, int]] | None = None
    ) -> BackboneFeatures:
        """Appearance and motion features of every clip as if it were alone, padded to the largest."""
        sizes = frame_sizes or [(frames.shape[-2], frames.shape[-1])] * len(frames)
        return encode_clips(frames, frame_mask, sizes, self.visual, self.motion)

    def ground(
        self,
        features: BackboneFeatures,
        frame_mask: Tensor,
        queries: Sequence[str] | TokenIds,
        select_context: ContextRule | None = None,
    ) -> GroundingOutput:
        """Grounds sentences in encoded clips.

        Args:
            queries: sentences, or what the tokenizer makes of them.
            select_context: replaces the rule that chooses the frames whose regions refine the boxes; by default those
                that the model itself trusts.
        """
        memory = self._remember(features, frame_mask, queries)

        states = self.time_decoder(memory, memory.times).states
        # Stage by stage, so that a tuned head sees the clip on its first axis.
        actioness = torch.stack([self.actioness_head(state).squeeze(-1) for state in states])
        trusted_in_time = actioness[-1].detach() > self.actioness_threshold

        def trusted(boxes: Tensor, confidence: Tensor) -> Tensor:
            return trusted_in_time & (confidence > self.confidence_threshold)

        weights = memory.token_mask.unsqueeze(-1).to(memory.tokens.dtype)
        frame_summary = (memory.tokens * weights).sum(2) / weights.sum(2)
        anchors = self.anchor_head(frame_summary).float().sigmoid()
        boxes, confidence = self.box_decoder(anchors, memory, select_context or trusted)
        return GroundingOutput(
            boxes=boxes,
            confidence=confidence,
            start_end=torch.stack([self.start_end_head(state) for state in states]),
            actioness=actioness,
            frame_mask=frame_mask,
            fused=FusedTokens(memory.tokens, memory.token_mask),
        )

    def fuse(self, features: BackboneFeatures, frame_mask: Tensor, queries: Sequence[str]) -> FusedTokens:
        memory = self._remember(features, frame_mask, queries)
        return FusedTokens(memory.tokens, memory.token_mask)

    def _remember(self, features: BackboneFeatures, frame_mask: Tensor, queries: Sequence[str] | TokenIds) -> Memory:
        """Joins the three kinds of tokens, frame by frame, and lets them attend to each other."""
        num_frames = frame_mask.shape[1]
        text, text_mask = self.text(queries)
        projections = self.visual_proj, self.motion_proj
        maps = tuple(map(cell_tokens, features.maps))
        frozen = [frozen_layer(projection)(tokens) for projection, tokens in zip(projections, maps, strict=True)]
        cell_mask = features.cell_mask.flatten(1)[:, None].expand(-1, num_frames, -1)
        token_mask = _token_mask(features, text_mask)
        self.reference_point(
            visual=torch.cat(frozen, dim=2),
            visual_mask=torch.cat((cell_mask, cell_mask), dim=2),
            text=text,
            text_mask=text_mask,
            frame_mask=frame_mask,
            memory_mask=token_mask.expand(-1, num_frames, -1),
            features=features,
            inputs=(TokenGrid(cell_mask),),
        )
        # What is tuned around a projection may read the reference, and so it runs behind it.
        appearance, motion = (
            known if frozen_layer(projection) is projection else projection(tokens)
            for projection, tokens, known in zip(projections, maps, frozen, strict=True)
        )

        cells = grid_positions(features.cell_mask, self.width)
        if self.encodings is None or isinstance(queries, TokenIds):
            tokens = self._fuse(appearance, text, motion, cells, token_mask)
        else:
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
        return Memory(
            tokens=tokens,
            positions=torch.cat((cells, torch.zeros_like(text), torch.zeros_like(cells)), dim=1)[:, None],
            token_mask=token_mask,
            frame_mask=frame_mask,
            grid=(features.cell_mask.shape[1], features.cell_mask.shape[2]),
            grid_sizes=torch.stack((features.cell_mask[:, :, 0].sum(1), features.cell_mask[:, 0].sum(1)), dim=1),
            times=time_positions(num_frames, self.width, tokens.device),
        )

    def _fuse(self, appearance: Tensor, text: Tensor, motion: Tensor, cells: Tensor, token_mask: Tensor) -> Tensor:
        """The encoder's tokens (B, T, M, D), of cells with positions (B, N, D) and of words, which have none."""
        words = text[:, None].expand(-1, appearance.shape[1], -1, -1)
        positions = torch.cat((cells, torch.zeros_like(text), cells), dim=1)[:, None]
        return self.encoder(torch.cat((appearance, words, motion), dim=2), positions, token_mask)

    def _fuse_alone(self, clip: BackboneFeatures, query: str) -> Tensor:
        """The encoder's tokens (T, M, D) of one clip without padding."""
        text, text_mask = self.text([query])
        appearance, motion = map(cell_tokens, clip.maps)
        cells = grid_positions(clip.cell_mask, self.width)
        token_mask = _token_mask(clip, text_mask)
        return self._fuse(self.visual_proj(appearance), text, self.motion_proj(motion), cells, token_mask)[0]


def _token_mask(features: BackboneFeatures, text_mask: Tensor) -> Tensor:
    """(B, 1, M), True on real tokens of a frame."""
    cells = features.cell_mask.flatten(1)
    return torch.cat((cells, text_mask, cells), dim=1)[:, None]
