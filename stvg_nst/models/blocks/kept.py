"""Tokens that are kept: what a frozen fusion makes of a clip and a sentence, looked up by its content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from stvg_nst.models.blocks.text import TextEncoder
from stvg_nst.models.encoding_store import KeptEncodings
from stvg_nst.types import BackboneFeatures

Fuse = Callable[[BackboneFeatures, str], Tensor]
"""Tokens (T, M, D) of one clip without padding, and a sentence."""


def kept_tokens(
    kept: KeptEncodings,
    features: BackboneFeatures,
    frame_mask: Tensor,
    queries: Sequence[str],
    text: TextEncoder,
    *,
    token_mask: Tensor,
    width: int,
    fuse: Fuse,
) -> Tensor:
    """Tokens (B, T, M, D) as they are kept, zeros on padding; a new clip goes through ``fuse`` alone, in float32.

    Args:
        text: what reads the sentences.
        token_mask: (B, 1, M) bool, True on real tokens.
        width: D.
    """
    tokens = torch.zeros(*frame_mask.shape, token_mask.shape[-1], width, device=frame_mask.device)
    for index, (query, length) in enumerate(zip(queries, frame_mask.sum(1).tolist(), strict=True)):
        clip = features.unpadded(index, length)

        def compute(clip: BackboneFeatures = clip, query: str = query) -> Tensor:
            with torch.no_grad(), torch.autocast(clip.appearance.device.type, enabled=False):
                return fuse(clip, query)

        alone = kept.get(_content(clip, text.token_ids(query)), compute)
        # Padding keeps the order of the real tokens.
        tokens[index, :length][:, token_mask[index, 0]] = alone.to(tokens.device)
    return tokens


def _content(clip: BackboneFeatures, token_ids: Sequence[int]) -> str:
    """Checksum of all that a fusion is given: features of one clip without padding, and a sentence."""
    digest = hashlib.sha256(repr((*(maps.shape for maps in clip.maps), tuple(token_ids))).encode())
    for maps in clip.maps:
        digest.update(maps.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()
