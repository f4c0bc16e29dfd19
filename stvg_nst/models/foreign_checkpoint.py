"""Checkpoints of other projects: read without running their code, filled into a model of ours, and reported."""

from __future__ import annotations

import argparse
import pickle
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import RobertaModel

from stvg_nst.models.blocks.text import require_readable
from stvg_nst.models.official_names import DERIVED, OfficialNames
from stvg_nst.models.weights import WeightsMismatchError, require_fit
from stvg_nst.torch_files import DAMAGED, is_archive

_TEXT = "text.body."


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


def load_roberta(source: str, model: nn.Module) -> LoadReport:
    """Fills the text encoder ``text.body``, whose projection is none of RoBERTa's.

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
    tensors = {f"{_TEXT}{name}": value for name, value in body.state_dict().items()}
    own = model.state_dict()
    expected = {name: value for name, value in own.items() if name.startswith(_TEXT)}
    require_fit(source, tensors, expected, type(model).__name__)
    model.load_state_dict(tensors, strict=False)
    filled = {name: name.removeprefix(_TEXT) for name in tensors}
    left_out = dict.fromkeys(sorted(found["unexpected_keys"]), "RoBERTa's heads for its own training")
    return LoadReport(source, filled, left_out, tuple(name for name in own if name not in filled))


def read_checkpoint(path: Path, parts: Sequence[str]) -> tuple[str, dict[str, Tensor]]:
    """What to call a checkpoint, and the tensors of the first of its ``parts`` that exists, memory-mapped.

    Raises:
        WeightsMismatchError: the file is absent, unreadable, or has none of these parts.
    """
    if not path.is_file():
        raise WeightsMismatchError(f"no checkpoint in '{path}'; docs/weights.md says where to get it")
    with path.open("rb"):  # a file that may not be read is not damaged
        pass
    try:
        # Besides tensors, MDETR's checkpoint holds the namespace of its command line.
        with torch.serialization.safe_globals([argparse.Namespace]):
            # Files from before PyTorch 1.6 are no archives and cannot be mapped.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive(path))
    except (pickle.UnpicklingError, OSError, *DAMAGED) as error:
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


def renamed(names: Mapping[str, Tensor], patterns: Sequence[tuple[re.Pattern[str], str]]) -> dict[str, str]:
    """The names that another project gives to tensors that it takes over, by the file's own."""
    return {
        name: pattern.sub(replacement, name)
        for name in names
        for pattern, replacement in patterns
        if pattern.match(name)
    }


def fill(
    model: nn.Module,
    source: str,
    tensors: Mapping[str, Tensor],
    official: Mapping[str, str],
    names: OfficialNames,
    scope: str,
) -> LoadReport:
    """Copies tensors into the model, where they must fill all that ``scope`` matches and nothing else.

    Args:
        tensors: by the file's names.
        official: the original's name of each tensor that it takes over.
        names: of the original.
        scope: pattern of our names.

    Raises:
        WeightsMismatchError: they do not.
    """
    filled: dict[str, str] = {}
    ignored: dict[str, str] = {}
    translated: dict[str, Tensor] = {}
    for name, value in tensors.items():
        no_part = f"{names.model} has no such part"
        reason = names.ignored_reason(official[name]) if name in official else no_part
        if reason is not None:
            ignored[name] = reason
            continue
        pieces = names.translate_tensor(official[name], value)
        translated |= pieces
        filled |= dict.fromkeys(pieces, name)
    own = model.state_dict()
    expected = {name: value for name, value in own.items() if re.match(scope, name) and not _is_derived(name)}
    require_fit(source, translated, expected, type(model).__name__)
    model.load_state_dict(translated, strict=False)
    return LoadReport(source, filled, ignored, tuple(name for name in own if name not in filled))


def _is_derived(name: str) -> bool:
    return name.endswith(".relative_position_index")
