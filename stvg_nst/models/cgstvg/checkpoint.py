"""Checkpoints of other projects: the official CG-STVG's, and those that its training starts from.

A released checkpoint fills the whole model. MDETR's, Video Swin's and RoBERTa's fill parts of it, in this order of
precedence: load RoBERTa and Video Swin first, MDETR last, which brings a text encoder of its own.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from stvg_nst.models.cgstvg.model import CGSTVG
from stvg_nst.models.cgstvg.official import ALIASES, NAMES
from stvg_nst.models.foreign_checkpoint import LoadReport, fill, read_checkpoint, renamed
from stvg_nst.models.weights import WeightsMismatchError


def load_official(path: Path, model: CGSTVG) -> LoadReport:
    """Fills the whole model from a released or self-trained checkpoint of the official code.

    Its moving average is preferred, as in the official evaluation.

    Args:
        path: e.g. hcstvg.pth, hcstvg2.pth or vidstg.pth.

    Raises:
        WeightsMismatchError: the file is absent, unreadable, or not exactly of this model.
    """
    source, tensors = read_checkpoint(path, ("model_ema", "model"))
    for alias, head in ALIASES.items():
        for name in (name for name in tensors if name.startswith(alias)):
            shared = head + name.removeprefix(alias)
            if shared in tensors and not torch.equal(tensors[name], tensors[shared]):
                raise WeightsMismatchError(
                    f"{source} holds the shared head '{shared}' a second time as '{name}', with other values; "
                    "the official model has one head, so this file is none of its checkpoints"
                )
    return fill(model, source, tensors, {name: name for name in tensors}, NAMES, r"")


_MDETR = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^backbone\.0\.body\.", "vis_encoder.0.body."),
        (r"^transformer\.text_encoder\.", "text_encoder.body."),
        (r"^transformer\.resizer\.", "text_encoder.resizer."),
        (r"^transformer\.encoder\.layers\.", "ground_encoder.encoder.spatial_layers."),
        (
            r"^transformer\.decoder\.(layers\.\d+\.(?:self_attn|linear1|linear2|norm1|norm3|norm4)|norm)\.",
            r"ground_decoder.decoder.\1.",
        ),
        (r"^(input_proj|bbox_embed)\.", r"\1."),
    )
)
_FROM_MDETR = (
    r"(visual|text|visual_proj|encoder\.layers)\."
    r"|box_decoder\.(box_head|layers\.\d+\.(self_attn|self_norm|cross_norm|ffn))\."
)


def load_mdetr(path: Path, model: CGSTVG) -> LoadReport:
    """Fills image and text encoder, cross-modal encoder, and what a box decoder has in common with MDETR's.

    Args:
        path: pretrained_resnet101_checkpoint.pth of MDETR (Kamath et al., ICCV 2021).

    Raises:
        WeightsMismatchError: the file is absent, unreadable, or no MDETR of this size.
    """
    source, tensors = read_checkpoint(path, ("model_ema", "model"))
    return fill(model, source, tensors, renamed(tensors, _MDETR), NAMES, _FROM_MDETR)


_VIDEO_SWIN = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^backbone\.layers\.(\d)\.downsample\.", r"vid.downsamples.\1."),
        (r"^backbone\.(layers\.\d\.blocks|patch_embed)\.", r"vid.\1."),
    )
)
_PATCH_KERNEL = "backbone.patch_embed.proj.weight"


def load_video_swin(path: Path, model: CGSTVG) -> LoadReport:
    """Fills the video encoder. The patch kernel is summed over its two frames, because CG-STVG's sees one.

    Args:
        path: swin_tiny_patch244_window877_kinetics400_1k.pth of Video Swin (Liu et al., CVPR 2022).

    Raises:
        WeightsMismatchError: the file is absent, unreadable, or no Video Swin of this size.
    """
    source, tensors = read_checkpoint(path, ("state_dict",))
    if _PATCH_KERNEL in tensors:
        tensors[_PATCH_KERNEL] = tensors[_PATCH_KERNEL].sum(2, keepdim=True)
    return fill(model, source, tensors, renamed(tensors, _VIDEO_SWIN), NAMES, r"motion\.")
