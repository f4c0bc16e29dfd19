"""From a name, a run's folder or a weights file to a grounder that answers."""

from __future__ import annotations

import json
import logging
from argparse import ArgumentError
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jsonargparse import ArgumentParser
from safetensors import SafetensorError

from datamodules.base import STVGDataModule
from stvg_nst.configuration import read_yaml
from stvg_nst.inference import InferenceProtocol
from stvg_nst.models.base import Grounder
from stvg_nst.models.description import METADATA_KEY, DescriptionError, ModelDescription
from stvg_nst.models.weights import load_weights
from stvg_nst.prediction.exported import ExportedTuner, load_frozen_part, load_tuned_part
from stvg_nst.prediction.grounder import VideoGrounder
from stvg_nst.prediction.network import Network
from stvg_nst.prediction.viewing import viewing_of
from stvg_nst.results.run_folder import RunFile
from stvg_nst.sharing import fetch, is_reference
from stvg_nst.sharing.hub import CONFIG as SHARED_CONFIG
from stvg_nst.tensor_files import open_tensors

Precision = Literal["float32", "bfloat16", "float16"]

PACKAGE = Path(__file__).resolve().parents[1]
SHIPPED: Mapping[str, Path] = {name: PACKAGE / "models" / name for name in ("mini", "tubedetr_mini")}
"""Grounders that come with the suite: folders of ``model.safetensors``, and of an ``adapter.safetensors`` perhaps."""

EXPORTED = "exported"
"""The name of what was tuned in an exported file."""

_OWN_CLASSES = "stvg_nst.models."

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """What a grounder is built from.

    Args:
        name: for people.
        description: the network, and how it is shown a clip.
        weights: the file, ``None`` for random ones.
        seed: of random weights.
        adapter: the file of the adapter that answers, ``None`` for none.
        exported: what was tuned, where the weights file holds that too.
    """

    name: str
    description: ModelDescription
    weights: Path | None
    seed: int = 0
    adapter: Path | None = None
    exported: ExportedTuner | None = None


def load(
    source: str | Path = "mini",
    *,
    adapters: Mapping[str, str | Path] | None = None,
    device: str = "auto",
    dtype: Precision = "float32",
) -> VideoGrounder:
    """A grounder that answers sentences about anyone's video.

    Args:
        source: ``mini`` or ``tubedetr_mini`` for a grounder that comes with the suite, the folder of a run, a weights
            file that says how its network is built (of ``export``, or of ``convert`` with an overlay of data), or
            ``hub:user/name`` for an adapter that somebody has shared.
        adapters: files of adapters, or references to the hub, to load beside the source's own, by the name to call
            them by. The last of them answers; :meth:`VideoGrounder.using` switches.
        device: ``auto`` for a GPU where there is one, or one of PyTorch's names, such as ``cpu`` or ``cuda:1``.
        dtype: of the network's products; half precision is that of ``--trainer.precision bf16-mixed`` or ``16-mixed``.

    Raises:
        FileNotFoundError: there is nothing of that name.
        DescriptionError: the file does not say how its network is built.
        WeightsMismatchError, AdapterMismatchError: weights or an adapter are of another network.
        ValueError: there is no such device or dtype, or the adapters have no names.
    """
    if not (adapters is None or isinstance(adapters, Mapping)):
        raise ValueError(f"expected adapters by the names to call them by, such as {{'night': FILE}}, got {adapters!r}")
    chosen, precision = _device(device), _precision(dtype)
    found = find_source(source)
    grounder = build(found).to(chosen).eval().requires_grad_(False)
    frozen = Network(grounder, None, found.description.viewing.inference, precision)
    loaded = VideoGrounder(found.name, found.description.viewing, frozen, {})
    if found.exported is not None and found.weights is not None:
        tuned = load_tuned_part(found.weights, found.exported, frozen)
        loaded = replace(loaded, adapters={EXPORTED: tuned}, adapter=EXPORTED)
    own = {} if found.adapter is None else {_own_name(found): found.adapter}
    for name, path in {**own, **(adapters or {})}.items():
        loaded = loaded.with_adapter(name, path)
    _log.info("loaded %s, on %s in %s", loaded, chosen, dtype)
    return loaded


def find_source(source: str | Path) -> ModelSource:
    """Reads what a name, a folder or a file says of its model, without building it; errors as of :func:`load`."""
    if is_reference(source):
        return _of_shared(fetch(source), str(source))
    path = Path(source)
    if str(source) in SHIPPED:
        folder = SHIPPED[str(source)]
        adapter = folder / RunFile.ADAPTER
        found = _of_weights_file(folder / "model.safetensors", str(source))
        return replace(found, adapter=adapter if adapter.exists() else None)
    if path.is_dir():
        return _of_shared(path, str(path)) if (path / SHARED_CONFIG).is_file() else _of_run(path)
    if path.exists():
        return _of_weights_file(path, str(path))
    names = ", ".join(f"'{name}'" for name in SHIPPED)
    raise FileNotFoundError(
        f"expected {names}, a run's folder, a weights file or hub:user/name, and there is no '{source}'"
    )


def _of_weights_file(path: Path, name: str) -> ModelSource:
    try:
        with open_tensors(path) as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise DescriptionError(f"'{path}' is no readable safetensors file ({error})") from error
    description = _own_description(metadata, str(path))
    return ModelSource(name, description, path, exported=ExportedTuner.from_metadata(metadata, str(path)))


def _own_description(metadata: dict[str, str], source: str) -> ModelDescription:
    """
    Raises:
        DescriptionError: it describes no network, or one of classes from elsewhere.
    """
    description = ModelDescription.from_metadata(metadata, source)
    foreign = [kind for kind in _class_paths(description.grounder) if not kind.startswith(_OWN_CLASSES)]
    if foreign:
        raise DescriptionError(
            f"'{source}' asks for {foreign[0]}, and a file may name classes of {_OWN_CLASSES[:-1]} only"
        )
    return description


def _of_shared(folder: Path, name: str) -> ModelSource:
    """Of a folder that `share` has written, whose frozen weights come with the suite."""
    try:
        content = json.loads((folder / SHARED_CONFIG).read_text(encoding="utf-8"))
        base, described = content["base"], json.dumps(content["description"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DescriptionError(f"'{name}' is no folder that `share` has written ({error!r})") from error
    description = _own_description({METADATA_KEY: described}, name)
    if not isinstance(base, str) or base not in SHIPPED:
        raise DescriptionError(
            f"'{name}' belongs to weights that do not come with the suite; load these, and give "
            f"adapters={{'shared': '{name}'}}"
        )
    weights = SHIPPED[base] / "model.safetensors"
    return ModelSource(name, description, weights, adapter=folder / RunFile.ADAPTER)


def _of_run(folder: Path) -> ModelSource:
    """Of the folder of a fit, or of a test without one; a test's own settings go over those of the fit."""
    configs = [folder / name for name in (RunFile.TEST_CONFIG, RunFile.CONFIG) if (folder / name).is_file()]
    if not configs:
        raise FileNotFoundError(
            f"'{folder}' is no run's folder: there is neither {RunFile.TEST_CONFIG} nor {RunFile.CONFIG} in it"
        )
    config = read_yaml(configs[0])
    model: Mapping[str, Any] = config.get("model") or {}
    if not {"grounder", "weights"} <= model.keys() or "data" not in config or "seed_everything" not in config:
        raise DescriptionError(
            f"'{configs[0]}' does not say which network was run on which data; give the folder of a fit or of a test"
        )
    inference: InferenceProtocol = model.get("inference", "single_pass")
    with _told_by(configs[0]):
        description = ModelDescription(model["grounder"], viewing_of(_data_of(config), inference))
    is_random = model["weights"] == "random"
    return ModelSource(
        name=f"{folder}, RANDOM WEIGHTS" if is_random else str(folder),
        description=description,
        weights=None if is_random else _located(model["weights"]),
        seed=int(config["seed_everything"]),
        adapter=_adapter_of(folder, model),
    )


def _adapter_of(folder: Path, model: Mapping[str, Any]) -> Path | None:
    own = folder / RunFile.ADAPTER
    if own.exists():
        return own
    if model.get("adapter") is not None:
        return _located(model["adapter"])
    tuner = model.get("tuner", {})
    kind = str(tuner.get("class_path", "")).rpartition(".")[2]
    if kind != "ZeroShot":
        raise FileNotFoundError(f"the run in '{folder}' is not finished: there is no '{own}'; go on with its fit first")
    return None


def _data_of(config: Mapping[str, Any]) -> STVGDataModule:
    """The data module of a run, for its settings: what it reads from need not be there."""
    data = config["data"]
    options = data.get("init_args", {})
    absent = {name: None for name in ("features", "frames", "degraded") if name in options}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(STVGDataModule, "data")
    return parser.instantiate(parser.parse_object({"data": {**data, "init_args": {**options, **absent}}})).data


def build(source: ModelSource) -> Grounder:
    """The network of a source in float32 on the CPU, its adapters left out; errors as of :func:`load`."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Grounder, "grounder")
    with _told_by(source.name):
        config = parser.parse_object({"grounder": with_places(source.description.grounder)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(source.seed)
        grounder: Grounder = parser.instantiate(config).grounder
    if source.weights is not None:
        fill = load_weights if source.exported is None else load_frozen_part
        fill(source.weights, grounder)
    return grounder


@contextmanager
def _told_by(source: Path | str) -> Iterator[None]:
    """Names the file whose settings do not fit the classes that they name."""
    try:
        yield
    except ArgumentError as error:
        said = " ".join(str(error).split())
        raise DescriptionError(f"'{source}' asks for what this version does not know: {said}") from error


def with_places(config: Any) -> Any:
    """A component whose text encoders' folders are found from anywhere."""
    if not isinstance(config, Mapping):
        return config
    return {
        name: str(_located(value))
        if name == "source" and isinstance(value, str) and "/" in value
        else with_places(value)
        for name, value in config.items()
    }


def _located(path: str) -> Path:
    """A file or folder of a configuration, whose place is relative to where the run was made: to the repository."""
    places = [Path(path), PACKAGE.parent / path]
    return next((place for place in places if place.exists()), places[0])


def _class_paths(config: Any) -> Iterator[str]:
    if isinstance(config, Mapping):
        for name, value in config.items():
            if name == "class_path":
                yield str(value)
            yield from _class_paths(value)


def _own_name(source: ModelSource) -> str:
    assert source.adapter is not None
    if is_reference(source.name):
        return source.name
    return source.adapter.parent.name or source.name


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"there is no kind of device '{name}'; give auto, cpu or cuda:NUMBER") from error
    if device.type not in ("cpu", "cuda") and not (device.type == "mps" and torch.backends.mps.is_available()):
        raise ValueError(f"there is no device '{name}' here; give auto, cpu or cuda:NUMBER")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"there is no GPU '{name}': PyTorch finds {torch.cuda.device_count()} here; give --device cpu, or auto"
        )
    return device


def _precision(dtype: str) -> torch.dtype:
    if dtype not in get_args(Precision):
        raise ValueError(f"dtype must be one of {', '.join(get_args(Precision))}, got {dtype!r}")
    precision: torch.dtype = getattr(torch, dtype)
    return precision
