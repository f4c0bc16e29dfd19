"""The geometry of a whole model: the rank and the null space of every layer that a tuner could wrap."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal

from torch import nn

from stvg_nst.machine.whole_files import whole_file
from stvg_nst.nullspace import RankRule
from stvg_nst.tuning.base import TuningModule
from stvg_nst.tuning.selection import Strategy, choose_layers, find_candidates, measure_layers

Order = Literal["model", "rank_ratio"]


@dataclass(frozen=True, slots=True)
class LayerGeometry:
    """The input space of a frozen layer as a rule parts it; the terms are those of :class:`Spectrum`.

    Args:
        name: qualified name in the model.
        d_out, d_in: the weight's shape.
        rank, nullity: dimensions of the row and the null space; they add up to d_in.
        rank_ratio: rank / d_in.
        sigma_next: the most of a unit vector of the null space that reaches the output.
        exact: whether that is no more than rounding.
        selected: whether the strategy chooses it.
    """

    name: str
    d_out: int
    d_in: int
    rank: int
    nullity: int
    rank_ratio: float
    sigma_next: float
    exact: bool
    selected: bool


@dataclass(frozen=True, slots=True)
class LayerSurvey:
    """The candidates of a model, in the model's order; ``str()`` of it is a table for the terminal.

    Args:
        rule, threshold: what counted as rank.
        strategy, share, seed: what chose the selected layers; no strategy chose none.
        layers: one or more.
    """

    rule: RankRule
    threshold: float | None
    strategy: Strategy | None
    share: float
    seed: int
    layers: tuple[LayerGeometry, ...]

    def ordered(self, order: Order) -> LayerSurvey:
        """The same in the given order; layers of equal rank ratio stay in the model's."""
        if order == "model":
            return self
        return replace(self, layers=tuple(sorted(self.layers, key=lambda layer: layer.rank_ratio)))

    def __str__(self) -> str:
        rule = self.rule if self.threshold is None else f"{self.rule} {self.threshold:g}"
        exact = sum(layer.exact and layer.nullity > 0 for layer in self.layers)
        title = f"{len(self.layers)} linear layers, rank by rule '{rule}'; the null space is exact in {exact}"
        if self.strategy is not None:
            selected = sum(layer.selected for layer in self.layers)
            title += f"; * marks the {selected} that '{self.strategy}' selects"
        width = max(len("layer"), *(len(layer.name) for layer in self.layers))
        lines = [
            title,
            "",
            f"  {'layer':<{width}}  {'weight':>11}  {'rank':>5}  {'ratio':>6}  {'nullity':>7}  {'sigma_r+1':>9}",
        ]
        for layer in self.layers:
            weight = f"{layer.d_out} x {layer.d_in}"
            # A layer without a null space leaks nothing; an exact one leaks rounding, which is no property of it.
            leak = "-" if not layer.nullity else "exact" if layer.exact else f"{layer.sigma_next:.2e}"
            lines.append(
                f"{'*' if layer.selected else ' '} {layer.name:<{width}}  {weight:>11}  {layer.rank:>5}  "
                f"{layer.rank_ratio:>6.3f}  {layer.nullity:>7}  {leak:>9}"
            )
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Write one row per layer as CSV, or the whole survey as JSON, by the path's suffix; replaces an older file.

        Raises:
            ValueError: the suffix is neither ``.json`` nor ``.csv``.
        """
        check_suffix(path)
        with whole_file(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
            if path.suffix == ".json":
                json.dump(asdict(self), file, indent=2)
            else:
                writer = csv.DictWriter(file, [field.name for field in fields(LayerGeometry)])
                writer.writeheader()
                writer.writerows(asdict(layer) for layer in self.layers)


def survey_layers(
    model: nn.Module,
    targets: Sequence[str],
    *,
    strategy: Strategy | None = None,
    share: float = 0.1,
    rule: RankRule = "exact",
    threshold: float | None = None,
    seed: int = 0,
    exclude: Sequence[str] = (),
) -> LayerSurvey:
    """Measure the candidates of a plain model, and mark those that a strategy would choose.

    Args:
        model, targets, share, rule, threshold, seed, exclude: as in
            :func:`~stvg_nst.tuning.selection.select_layers`.
        strategy: as there; ``None`` measures and chooses nothing.

    Raises:
        ValueError: as there, or the model carries adapters, whose own layers are none of its geometry.
    """
    for name, module in model.named_modules():
        if isinstance(module, TuningModule):
            raise ValueError(
                f"expected a plain model, got a {type(module).__name__} at '{name}'; give "
                f"--config experiments/tuner/zero_shot.yaml as the tuner"
            )
    candidates = find_candidates(model, targets, whole_modules=strategy != "all", exclude=exclude)
    spectra = measure_layers(candidates, rule=rule, threshold=threshold)
    chosen = frozenset() if strategy is None else choose_layers(spectra, strategy=strategy, share=share, seed=seed)
    return LayerSurvey(
        rule=rule,
        threshold=threshold,
        strategy=strategy,
        share=share,
        seed=seed,
        layers=tuple(
            LayerGeometry(
                name=name,
                d_out=spectrum.shape[0],
                d_in=spectrum.shape[1],
                rank=spectrum.rank,
                nullity=spectrum.nullity,
                rank_ratio=spectrum.rank_ratio,
                sigma_next=spectrum.sigma_next,
                exact=spectrum.exact,
                selected=name in chosen,
            )
            for name, spectrum in spectra.items()
        ),
    )


def check_suffix(path: Path) -> None:
    """Refuse a path that :meth:`LayerSurvey.write` cannot write.

    Raises:
        ValueError: its suffix is neither ``.json`` nor ``.csv``.
    """
    if path.suffix not in (".json", ".csv"):
        raise ValueError(f"a survey of layers is written as .json or .csv, got '{path}'; name it layers.json")
