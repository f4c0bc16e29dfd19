"""Checkpoints of other projects: the official TubeDETR's, and MDETR's, which its training starts from."""

from __future__ import annotations

from pathlib import Path

from stvg_nst.models.foreign_checkpoint import LoadReport, fill, read_checkpoint
from stvg_nst.models.tubedetr.model import TubeDETR
from stvg_nst.models.tubedetr.official import NAMES

_PARTS = "model_ema", "model"
_QUERIES = "query_embed.weight"
_FROM_MDETR = r"(visual|text|visual_proj|encoder|decoder|query|box_head)\."


def load_official(path: Path, model: TubeDETR) -> LoadReport:
    """Fills the whole model from a released or self-trained checkpoint of the official code.

    Its moving average is preferred: the published numbers are the average's. Neither the stride nor the resolution is
    in the file.

    Raises:
        WeightsMismatchError: the file is absent, unreadable, or not exactly of this model.
    """
    source, tensors = read_checkpoint(path, _PARTS)
    return fill(model, source, tensors, {name: name for name in tensors}, NAMES, r"")


def load_mdetr(path: Path, model: TubeDETR) -> LoadReport:
    """Fills all but the head of start and end and the fast branch, which corrects nothing afterwards.

    Of MDETR's hundred queries the first becomes the one of each frame.

    Args:
        path: pretrained_resnet101_checkpoint.pth of MDETR (Kamath et al., ICCV 2021).

    Raises:
        WeightsMismatchError: the file is absent, unreadable, or no MDETR of this size.
    """
    source, tensors = read_checkpoint(path, _PARTS)
    if _QUERIES in tensors:
        tensors[_QUERIES] = tensors[_QUERIES][:1]
    report = fill(model, source, tensors, {name: name for name in tensors}, NAMES, _FROM_MDETR)
    for parameter in model.fast_residual.parameters():
        parameter.data.zero_()
    return report
