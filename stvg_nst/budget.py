"""What each point of a study adapts and trains, before any of it is trained."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from stvg_nst.models.base import Grounder
from stvg_nst.models.weights import load_weights
from stvg_nst.study import Study
from stvg_nst.tuning.base import InjectionReport, Tuner
from stvg_nst.tuning.nst.options import NullSpaceOptions


def injected_points(study: Study) -> Iterator[tuple[str, Grounder, Tuner, InjectionReport]]:
    """Every point's grounder with its adapters, its tuner, and what this did; random weights where the file is absent.

    Raises:
        ValueError: a target matches nothing, or an option does not fit the model.
    """
    grounders: dict[str, tuple[Grounder, bool]] = {}
    for name, config in study.points.items():
        model = config["model"]
        key = json.dumps([model["grounder"], model["weights"]], sort_keys=True)
        if key not in grounders:
            grounders[key] = _grounder(model)
        frozen, is_random = grounders[key]
        grounder = copy.deepcopy(frozen)
        tuner: Tuner = _built(Tuner, model["tuner"])
        if is_random and isinstance(tuner, NullSpaceOptions):
            tuner.spaces = None  # decompositions that nobody will ask for again
        try:
            report = tuner.inject(grounder)
        except ValueError as error:
            raise ValueError(f"point '{name}': {error}") from error
        yield name, grounder, tuner, report


def frozen_grounder(study: Study) -> Grounder:
    """The study's grounder as its baseline tests it."""
    grounder, _ = _grounder(study.baseline["model"])
    tuner: Tuner = _built(Tuner, study.baseline["model"]["tuner"])
    tuner.inject(grounder)
    return grounder


def budget_text(study: Study) -> str:
    """A line for each point: its adapted layers, its trainable parameters and their share; then what is tuned."""
    width = max(map(len, study.points))
    lines = [f"{'':{width}} {'layers':>8} {'trainable':>12} {'of all':>9}"]
    sets: dict[tuple[str, ...], list[str]] = {}
    for name, _, _, report in injected_points(study):
        share = report.trainable / report.total
        layers = tuple(layer.name for layer in report.layers)
        shown = str(len(layers)) if layers else "-"
        lines.append(f"{name:{width}} {shown:>8} {report.trainable:12,} {share:9.2%}")
        sets.setdefault((*layers, *report.parts), []).append(name)
    for layers, names in sets.items():
        lines += ["", f"{', '.join(names)}:", *(f"  {layer}" for layer in layers)]
    return "\n".join(lines)


def _grounder(model: Mapping[str, Any]) -> tuple[Grounder, bool]:
    """The grounder, and whether its weights are random."""
    grounder: Grounder = _built(Grounder, model["grounder"])
    is_random = model["weights"] == "random" or not Path(model["weights"]).is_file()
    if not is_random:
        load_weights(Path(model["weights"]), grounder)
    return grounder, is_random


def _built(base: type, config: Mapping[str, Any]) -> Any:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(base, "part")
    return parser.instantiate(parser.parse_object({"part": dict(config)})).part
