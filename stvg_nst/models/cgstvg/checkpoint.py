"""Checkpoints of other projects: the official CG-STVG's, and the three that its training starts from.

A released checkpoint fills the whole model. MDETR's, Video Swin's and RoBERTa's fill parts of it, in this order of
precedence: load RoBERTa and Video Swin first, MDETR last, which brings a text encoder of its own.
"""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import RobertaModel

from stvg_nst.models.blocks.text import require_readable
from stvg_nst.models.cgstvg.model import CGSTVG
from stvg_nst.models.cgstvg.official import ALIASES, DERIVED, ignored_reason, translate_tensor
from stvg_nst.models.weights import WeightsMismatchError, require_fit


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a checkpoint gave to a model; ``str()`` of it is a summary.

    Args:
        source: the file, and the part of it that was read.
        filled: our name of each tensor that was filled, and the file's name of where it comes from.
        ignored: the file's tensors that were left out, each with the reason.
        missing: our tensors that the file does not hold; they stayed as they were.
    """

    source: str
    filled: Mapping[str, str]
    ignored: Mapping[str, str]
    missing: tuple[str, ...]

    @property
    def matched(self) -> tuple[str, ...]:
        """What goes by the same name here and there."""
        return tuple(ours for ours, theirs in self.filled.items() if ours == theirs)

    @property
    def renamed(self) -> dict[str, str]:
        """What does not: our names and the file's."""
        return {ours: theirs for ours, theirs in self.filled.items() if ours != theirs}

    def __str__(self) -> str:
        lines = [
            f"{self.source}: {len(self.filled)} tensors filled "
            f"({len(self.matched)} under their own name, {len(self.renamed)} renamed)"
        ]
        lines += [f"  {count:>5} ignored: {reason}" for reason, count in Counter(self.ignored.values()).items()]
        parts = Counter(
            f"constants ({DERIVED})" if _is_derived(name) else name.partition(".")[0] for name in self.missing
        )
        lines += [f"  {count:>5} of '{part}' not in the file, left as they were" for part, count in parts.items()]
        return "\n".join(lines)


def load_official(path: Path, model: CGSTVG) -> LoadReport:
    """Fills the whole model from a released or self-trained checkpoint of the official code.

    Its moving average is preferred, as in the official evaluation.

    Args:
        path: e.g. hcstvg.pth, hcstvg2.pth or vidstg.pth.

    Raises:
        WeightsMismatchError: the file is absent, unreadable, or not exactly of this model.
    """
    source, tensors = _read(path, ("model_ema", "model"))
    for alias, head in ALIASES.items():
        for name in (name for name in tensors if name.startswith(alias)):
            shared = head + name.removeprefix(alias)
            if shared in tensors and not torch.equal(tensors[name], tensors[shared]):
                raise WeightsMismatchError(
                    f"{source} holds the shared head '{shared}' a second time as '{name}', with other values; "
                    "the official model has one head, so this file is none of its checkpoints"
                )
    return _fill(model, source, tensors, {name: name for name in tensors}, r"")


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
    source, tensors = _read(path, ("model_ema", "model"))
    return _fill(model, source, tensors, _rename(tensors, _MDETR), _FROM_MDETR)


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
    source, tensors = _read(path, ("state_dict",))
    if _PATCH_KERNEL in tensors:
        tensors[_PATCH_KERNEL] = tensors[_PATCH_KERNEL].sum(2, keepdim=True)
    return _fill(model, source, tensors, _rename(tensors, _VIDEO_SWIN), r"motion\.")


def load_roberta(source: str, model: CGSTVG) -> LoadReport:
    """Fills the text encoder but its projection.

    Args:
        source: a folder with ``config.json`` and the weights, or a model's name on the hub, e.g. roberta-base.

    Raises:
        OSError: no such folder, not in the hub's cache, and the hub does not hand it out.
        WeightsMismatchError: the weights are not of this model's text encoder.
    """
    require_readable(source)
    try:
        loaded: Any = RobertaModel.from_pretrained(source, add_pooling_layer=False, output_loading_info=True)
    except OSError as error:
        raise OSError(
            f"no weights of a RoBERTa in '{source}': it is no folder with config.json and model.safetensors, not in "
            "the cache of the Hugging Face hub, and the hub did not hand them out; run once with a network, or give "
            "the folder of a copy"
        ) from error
    body, found = loaded
    if absent := sorted(found["missing_keys"]):
        raise WeightsMismatchError(f"the weights in '{source}' lack {len(absent)} tensors, the first are {absent[:5]}")
    tensors = body.state_dict()
    official = {name: f"text_encoder.body.{name}" for name in tensors}
    report = _fill(model, source, tensors, official, r"text\.body\.")
    left_out = dict.fromkeys(sorted(found["unexpected_keys"]), "RoBERTa's heads for its own training")
    return LoadReport(report.source, report.filled, {**report.ignored, **left_out}, report.missing)


def _read(path: Path, parts: Sequence[str]) -> tuple[str, dict[str, Tensor]]:
    """The tensors of a checkpoint's first part that exists, memory-mapped, and what to call them."""
    if not path.is_file():
        raise WeightsMismatchError(f"no checkpoint in '{path}'; docs/weights.md says where to get it")
    with path.open("rb"):  # a file that may not be read is not damaged
        pass
    try:
        # Besides tensors, MDETR's checkpoint holds the namespace of its command line.
        with torch.serialization.safe_globals([argparse.Namespace]):
            # Files from before PyTorch 1.6 are no archives and cannot be mapped.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise WeightsMismatchError(
            f"'{path}' is damaged, or holds more than tensors and plain values: {error}\nfetch it again; if it is "
            "whole and you trust it, load it with weights_only=False and save its tensors alone"
        ) from error
    keys = list(content) if isinstance(content, Mapping) else []
    part = next((part for part in parts if part in keys and isinstance(content[part], Mapping)), None)
    if part is None:
        expected = " or ".join(f"'{part}'" for part in parts)
        raise WeightsMismatchError(
            f"'{path}' must hold {expected}, got {type(content).__name__} with the keys {keys[:5]}; "
            "is it the file that docs/weights.md names?"
        )
    return f"'{path}' ({part})", {name: value for name, value in content[part].items() if isinstance(value, Tensor)}


def _rename(names: Mapping[str, Tensor], patterns: Sequence[tuple[re.Pattern[str], str]]) -> dict[str, str]:
    """The official CG-STVG's names, of those tensors that it takes over."""
    return {
        name: pattern.sub(replacement, name)
        for name in names
        for pattern, replacement in patterns
        if pattern.match(name)
    }


def _fill(
    model: CGSTVG, source: str, tensors: Mapping[str, Tensor], official: Mapping[str, str], scope: str
) -> LoadReport:
    """Copies tensors into the model, where they must fill all that ``scope`` matches and nothing else.

    Args:
        tensors: by the file's names.
        official: the official CG-STVG's name of each tensor that it takes over.
        scope: pattern of our names.
    """
    filled: dict[str, str] = {}
    ignored: dict[str, str] = {}
    translated: dict[str, Tensor] = {}
    for name, value in tensors.items():
        reason = ignored_reason(official[name]) if name in official else "CG-STVG has no such part"
        if reason is not None:
            ignored[name] = reason
            continue
        pieces = translate_tensor(official[name], value)
        translated |= pieces
        filled |= dict.fromkeys(pieces, name)
    own = model.state_dict()
    expected = {name: value for name, value in own.items() if re.match(scope, name) and not _is_derived(name)}
    require_fit(source, translated, expected, type(model).__name__)
    model.load_state_dict(translated, strict=False)
    return LoadReport(source, filled, ignored, tuple(name for name in own if name not in filled))


def _is_derived(name: str) -> bool:
    return name.endswith(".relative_position_index")
