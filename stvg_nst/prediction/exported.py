"""A tuned network in one file: frozen weights, what was tuned beside them, and how both are built.

What a method can multiply out, such as LoRA, needs no such file: it is plain weights. The gate of null-space tuning
depends on the clip, and stays a gate: a hard one, so that a clip which it calls clean is answered by the frozen weights
alone. All else that is linear is folded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from stvg_nst.models.base import Grounder
from stvg_nst.models.description import DescriptionError, ModelDescription
from stvg_nst.models.weights import require_fit
from stvg_nst.prediction.network import AdapterOptions, Network, make_tuner, shared_copy
from stvg_nst.tensor_files import read_tensors, save_tensors
from stvg_nst.tuning.nst import NullSpaceTuning

METADATA_KEY = "stvg_nst_tuned"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class ExportedTuner:
    """What was tuned, as a file says it.

    Args:
        tuner: module and name of the tuner's class.
        options: that it was built with.
        folded: whether what is linear is multiplied out.
    """

    tuner: str
    options: dict[str, Any]
    folded: bool

    def to_metadata(self) -> dict[str, str]:
        content = {"format_version": FORMAT_VERSION, **asdict(self)}
        return {METADATA_KEY: json.dumps(content, sort_keys=True, allow_nan=False)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], source: str) -> ExportedTuner | None:
        """``None`` where the file holds plain weights.

        Raises:
            DescriptionError: it is of another format, or damaged.
        """
        if METADATA_KEY not in metadata:
            return None
        try:
            content = json.loads(metadata[METADATA_KEY])
            if content.pop("format_version", None) == FORMAT_VERSION:
                return cls(**content)
        except (ValueError, TypeError, AttributeError) as error:
            raise DescriptionError(f"'{source}' does not say what was tuned ({error}); export its run again") from error
        raise DescriptionError(f"'{source}' was exported by another version; export its run again")


def export_tuned(
    path: Path, frozen: Network, adapter: Path, description: ModelDescription, *, dtype: torch.dtype = torch.float32
) -> None:
    """Writes a frozen network and its adapter as one file, which :func:`stvg_nst.load` reads.

    Raises:
        AdapterMismatchError, ValueError, OSError: as :meth:`Network.adapted`; or the file cannot be written.
    """
    made = AdapterOptions.of(adapter)
    hard = {"gate": "hard"} if made.options.get("gate") == "soft" else {}
    tuner = make_tuner(AdapterOptions(made.tuner, made.options | hard), str(adapter))
    network = frozen.under(tuner, adapter)
    exported = ExportedTuner(made.tuner, made.options | hard, folded=isinstance(tuner, NullSpaceTuning))
    if isinstance(tuner, NullSpaceTuning):
        tuner.fold(network.grounder)
    tensors = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).detach().cpu().clone().contiguous()
        for name, tensor in network.grounder.state_dict().items()
    }
    save_tensors(path, tensors, description.to_metadata() | exported.to_metadata())


def load_frozen_part(path: Path, grounder: Grounder) -> None:
    """Fills a network with the frozen weights of an exported file.

    Raises:
        WeightsMismatchError: they are of another network.
    """
    expected = grounder.state_dict()
    tensors = {_frozen_name(name): tensor for name, tensor in _read(path).items()}
    found = {name: tensor for name, tensor in tensors.items() if name in expected}
    require_fit(f"'{path}'", found, expected, type(grounder).__name__)
    grounder.load_state_dict(found)


def load_tuned_part(path: Path, exported: ExportedTuner, frozen: Network) -> Network:
    """The network of an exported file over its frozen weights, which stay in memory once.

    Raises:
        WeightsMismatchError: the file does not hold what its options say.
        ValueError: its method is none of this suite's.
    """
    tuner = make_tuner(exported, str(path))
    twin = shared_copy(frozen.grounder)
    tuner.inject(twin)
    if exported.folded:
        assert isinstance(tuner, NullSpaceTuning), "no other method folds"
        tuner.fold(twin)
    tensors = _read(path)
    require_fit(f"'{path}'", tensors, twin.state_dict(), f"{type(twin).__name__} under {type(tuner).__name__}")
    twin.load_state_dict(tensors)
    twin.requires_grad_(False)
    return Network(twin, tuner, frozen.inference, frozen.dtype)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return read_tensors(path)[0]
    except SafetensorError as error:
        raise DescriptionError(f"'{path}' is no readable safetensors file ({error})") from error


def _frozen_name(name: str) -> str:
    """Of a tensor in the frozen network: without the wrapper of a tuned layer."""
    return name.replace(".base_layer.", ".")
