"""Adapters on disk: what tuning added to a frozen model, tied to that model's weights, in one safetensors file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from stvg_nst.nullspace import fingerprint
from stvg_nst.sharing import adapter_file
from stvg_nst.tensor_files import read_tensors, save_tensors
from stvg_nst.tuning.base import TunedLinear, Tuner, TuningModule

FORMAT_VERSION = 2
METADATA_KEY, SUM_KEY = "stvg_nst_adapter", "stvg_nst_sum"
# Differences that an error names; the rest is counted.
MAX_NAMED = 5


class AdapterMismatchError(ValueError):
    """A file is no adapter, or the adapter was made by another method or for another model."""


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What an adapter file says of itself.

    Args:
        format_version: of this file format.
        tuner: module and name of the tuner's class.
        fields: the tuner's options, as JSON values.
        fingerprints: of the frozen weight of each wrapped layer, by name.
        frozen: fingerprint of all that tuning leaves as it is, these weights included.
    """

    format_version: int
    tuner: str
    fields: dict[str, Any]
    fingerprints: dict[str, str]
    frozen: str


def adapter_state(grounder: nn.Module) -> dict[str, Tensor]:
    """The adapter's parameters and buffers by name, attached to the model.

    Ownership goes by type and never by spelling: a tensor belongs to the adapter if it is trainable, or if it lives in
    a :class:`TuningModule` but not in a tuned layer's base layer.
    """
    state: dict[str, Tensor] = {
        name: parameter for name, parameter in grounder.named_parameters() if parameter.requires_grad
    }
    for prefix, module in grounder.named_modules():
        if isinstance(module, TuningModule):
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                if not name.startswith("base_layer."):
                    state[f"{prefix}.{name}"] = tensor
    return state


def later_tensors(grounder: nn.Module) -> frozenset[str]:
    """Names in :func:`adapter_state` of what an older adapter or checkpoint may lack."""
    return frozenset(
        f"{prefix}.{name}"
        for prefix, module in grounder.named_modules()
        if isinstance(module, TuningModule)
        for name in module.later_buffers
    )


def save_adapter(path: Path | str, grounder: nn.Module, tuner: Tuner) -> None:
    """Write the adapter of a tuned model; the file appears complete or not at all, and replaces an older one."""
    path = Path(path)
    tuner.check_saveable()
    # Clones: safetensors refuses tensors that share memory.
    state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in adapter_state(grounder).items()}
    text = json.dumps(asdict(describe_adapter(grounder, tuner)), sort_keys=True)
    save_tensors(path, state, {METADATA_KEY: text, SUM_KEY: _sum(text, state)})


def read_adapter_config(path: Path | str) -> AdapterConfig:
    """Read what an adapter file says of itself, without its tensors.

    Raises:
        AdapterMismatchError: the file is no adapter, or of another format version.
    """
    return _read(Path(path))[0]


def load_adapter(path: Path | str, grounder: nn.Module, tuner: Tuner) -> None:
    """Read an adapter into a model that ``tuner`` is injected into, on the model's device and in its dtype.

    Nothing is copied unless everything fits: the tuner's class and options (but for its ``free_fields``), everything
    frozen bit by bit, and the name and shape of every tensor. An option that an older file lacks had its default there.

    Raises:
        AdapterMismatchError: something does not fit; the message names the first differences.
    """
    path = Path(path)
    saved, tensors = _read(path)
    require_adapter_fit(str(path), saved, grounder, tuner)
    state = adapter_state(grounder)
    tensors = {name: state[name] for name in later_tensors(grounder)} | tensors
    saved_shapes, shapes = ({name: tuple(tensor.shape) for name, tensor in s.items()} for s in (tensors, state))
    _compare(str(path), "tensors", saved_shapes, shapes, "inject the tuner with the options the adapter was made with")
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(tensors[name])


def require_adapter_fit(source: str, saved: AdapterConfig, grounder: nn.Module, tuner: Tuner) -> None:
    """Refuse what another method left, other options, or other frozen weights.

    Args:
        source: what ``saved`` comes from, as the error names it.

    Raises:
        AdapterMismatchError: with the first differences.
    """
    here = describe_adapter(grounder, tuner)
    if saved.tuner not in {_class_name(kind) for kind in type(tuner).__mro__}:
        raise AdapterMismatchError(f"{source} was made by {saved.tuner}, got {here.tuner}; load it with the former")
    # A control that fixes options of a more general tuner has the same layers as that tuner with these options.
    fixed = {name: _plain(getattr(tuner, name)) for name in saved.fields if hasattr(tuner, name)}
    options = _bound(here.fields | fixed, tuner)
    said = _defaults(tuner) | saved.fields
    _compare(source, "options", _bound(said, tuner), options, "use the options it was made with")
    advice = "load the weights that it was trained on"
    _compare(source, "frozen weights", saved.fingerprints, here.fingerprints, advice)
    if saved.frozen != here.frozen:
        raise AdapterMismatchError(
            f"{source} does not fit this model in what is frozen beside the tuned layers: expected fingerprint "
            f"{saved.frozen[:12]}, got {here.frozen[:12]}; {advice}"
        )


def _read(path: Path) -> tuple[AdapterConfig, dict[str, Tensor]]:
    path = adapter_file(path)
    try:
        tensors, metadata = read_tensors(path)
    except SafetensorError as error:
        raise AdapterMismatchError(
            f"{path} is no readable safetensors file ({error}); save the adapter again"
        ) from error
    if (text := metadata.get(METADATA_KEY)) is None:
        raise AdapterMismatchError(f"{path} holds no adapter: expected metadata '{METADATA_KEY}'; pass an adapter file")
    if metadata.get(SUM_KEY, (found := _sum(text, tensors))) != found:  # older files state none
        raise AdapterMismatchError(
            f"{path} is damaged: it does not have the checksum that it states; copy it again, or train it again"
        )
    content = json.loads(text)
    if content["format_version"] != FORMAT_VERSION:
        raise AdapterMismatchError(
            f"{path} has adapter format {content['format_version']}, this version reads {FORMAT_VERSION}; save it again"
        )
    return AdapterConfig(**content), tensors


def _sum(text: str, state: Mapping[str, Tensor]) -> str:
    """SHA-256 over all that an adapter file holds, in hex: safetensors notices a file cut short, but no flipped bit."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(state):
        digest.update(f"{name} {fingerprint(state[name])} ".encode())
    return digest.hexdigest()


def _tuned_layers(grounder: nn.Module) -> dict[str, TunedLinear]:
    return {name: module for name, module in grounder.named_modules() if isinstance(module, TunedLinear)}


def describe_adapter(grounder: nn.Module, tuner: Tuner) -> AdapterConfig:
    """What the adapter of a tuned model says of itself wherever it is kept."""
    assert is_dataclass(tuner), "every Tuner is a dataclass: its fields are its options"
    return AdapterConfig(
        format_version=FORMAT_VERSION,
        tuner=_class_name(type(tuner)),
        fields={field.name: _plain(getattr(tuner, field.name)) for field in fields(tuner) if field.init},
        fingerprints={name: fingerprint(layer.base_layer.weight) for name, layer in _tuned_layers(grounder).items()},
        frozen=_frozen_fingerprint(grounder),
    )


def _class_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _frozen_fingerprint(grounder: nn.Module) -> str:
    """SHA-256 over names and bytes of all that is not the adapter's, in hex."""
    tuned = {id(tensor) for tensor in adapter_state(grounder).values()}  # a shared layer has several names
    digest = hashlib.sha256()
    for name, tensor in grounder.state_dict(keep_vars=True).items():
        if id(tensor) not in tuned:
            digest.update(f"{name} {fingerprint(tensor)} ".encode())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """An option as JSON gives it back, so that a tuple and a list of the same targets are equal."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _defaults(tuner: Tuner) -> dict[str, Any]:
    """What the options of a tuner's class are where nothing is said of them."""
    assert is_dataclass(tuner), "every Tuner is a dataclass: its fields are its options"
    defaults = {field.name: field.default for field in fields(tuner) if field.init}
    return {name: _plain(value) for name, value in defaults.items() if value is not MISSING}


def _bound(options: Mapping[str, Any], tuner: Tuner) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in tuner.free_fields}


def _compare(source: str, what: str, saved: Mapping[str, Any], here: Mapping[str, Any], advice: str) -> None:
    names = [name for name in [*saved, *(set(here) - set(saved))] if saved.get(name) != here.get(name)]
    if not names:
        return
    named = "; ".join(
        f"'{name}': expected {saved.get(name, 'none')}, got {here.get(name, 'none')}"
        for name in islice(names, MAX_NAMED)
    )
    rest = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    raise AdapterMismatchError(f"{source} does not fit this model in its {what}: {named}{rest}; {advice}")
