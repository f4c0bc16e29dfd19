"""Weights of a whole grounder on disk: safetensors, loaded strictly."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from stvg_nst.models.description import ModelDescription
from stvg_nst.tensor_files import read_tensors, save_tensors


class WeightsMismatchError(RuntimeError):
    """A weights file that is absent, unreadable, or belongs to another model."""


def save_weights(
    path: Path, model: nn.Module, *, dtype: torch.dtype = torch.float32, description: ModelDescription | None = None
) -> None:
    """Writes all parameters and buffers, floating point ones as ``dtype``, whole or not at all.

    With a description, :func:`stvg_nst.load` answers with the file.
    """
    tensors = {
        name: (value.to(dtype) if value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in model.state_dict().items()
    }
    save_tensors(path, tensors, None if description is None else description.to_metadata())


def load_weights(path: Path, model: nn.Module) -> None:
    """Fills ``model`` in place; half-precision weights are widened to the model's own precision.

    Raises:
        WeightsMismatchError: the file is absent or damaged, or its keys or shapes are not exactly the model's.
        OSError: it is there, and cannot be read.
    """
    try:
        tensors, _ = read_tensors(path)
    except FileNotFoundError as error:
        raise WeightsMismatchError(
            f"no weights in '{path}'; give --model.weights an existing .safetensors file"
        ) from error
    except SafetensorError as error:
        raise WeightsMismatchError(f"'{path}' is not a readable safetensors file: {error}") from error
    require_fit(f"'{path}'", tensors, model.state_dict(), type(model).__name__)
    model.load_state_dict(tensors)


def require_fit(source: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor], target: str) -> None:
    """Refuses weights whose names or shapes are not exactly the expected ones.

    Args:
        source, target: what the weights come from and what they are for, as the error names them.

    Raises:
        WeightsMismatchError: with the first differences.
    """
    if differences := _differences(found, expected):
        shown = "\n  ".join(differences[:5])
        raise WeightsMismatchError(
            f"{source} does not fit {target}: {len(differences)} of {len(expected)} keys differ, the first are"
            f"\n  {shown}\nuse the model configuration that the weights were made with"
        )


def _differences(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    missing = [f"missing: {name}" for name in expected if name not in found]
    unexpected = [f"unexpected: {name}" for name in found if name not in expected]
    shapes = [
        f"shape of {name}: expected {tuple(value.shape)}, got {tuple(found[name].shape)}"
        for name, value in expected.items()
        if name in found and found[name].shape != value.shape
    ]
    return missing + unexpected + shapes


def modules_fingerprint(modules: tuple[nn.Module, ...]) -> str:
    """sha256 over names and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for module in modules:
        for name, value in sorted(module.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
