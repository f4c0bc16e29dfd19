"""Which linear layers of a model a tuner wraps: by name, or by the null space that their weights leave."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Literal, TypeVar, get_args

from torch import nn

from stvg_nst.nullspace import RankRule, Spectrum, check_rule, measure_spectrum, weight_matrix
from stvg_nst.seeding import derive_seed

Layer = TypeVar("Layer", bound=nn.Module)
Strategy = Literal["all", "high_nullity", "low_nullity", "random", "structural"]
"""Which of the candidates are tuned, after Table IV of the paper.

``all``: every layer that the targets name.

``high_nullity``, ``low_nullity``: the share of the candidates with the lowest, or the highest, rank ratio.

``random``: a share drawn by seed and name, so that a candidate more or less moves no other's draw.

``structural``: those with an exact null space, whatever the rule; in a trained model that is where a layer has more
inputs than outputs.
"""


def select_layers(
    model: nn.Module,
    targets: Sequence[str],
    *,
    strategy: Strategy = "all",
    share: float = 0.1,
    rule: RankRule = "exact",
    threshold: float | None = None,
    seed: int = 0,
    exclude: Sequence[str] = (),
    pointwise: bool = False,
) -> dict[str, nn.Module]:
    """Layers to tune, by their first name in the model, in the model's order.

    Args:
        targets: shell-style patterns of the candidates' names. Under ``all`` each must match linear layers only, as
            :func:`select_by_name` has it; the other strategies choose by themselves, so there a pattern may also name
            whole modules, and all linear layers in them are candidates.
        strategy: see :data:`Strategy`.
        share: of the candidates, in (0, 1], rounded up; ``all`` and ``structural`` do without.
        rule, threshold: what counts as rank, see :data:`~stvg_nst.nullspace.RankRule`.
        seed: of the draw.
        exclude: patterns of layers or whole modules that are no candidates, though a target matches them.
        pointwise: let 1 x 1 convolutions be candidates beside linear layers.

    Raises:
        ValueError: a pattern matches nothing or no linear layer, no candidate is left, none has an exact null space
            where that is asked for, or an option is out of range.

    Warns:
        UserWarning: layers of one rank ratio were parted, for the share ends among them; or a candidate is left out,
            for its weight is zero and has no row space.
    """
    check_choice(strategy, share)
    check_rule(rule, threshold)
    candidates = leave_out_zeros(
        find_candidates(model, targets, whole_modules=strategy != "all", exclude=exclude, pointwise=pointwise)
    )
    if strategy == "all":
        return candidates
    if strategy == "random":  # a draw needs no decomposition
        chosen = _draw(candidates, _count(share, len(candidates)), seed)
    else:
        spectra = measure_layers(candidates, rule=rule, threshold=threshold)
        chosen = choose_layers(spectra, strategy=strategy, share=share, seed=seed)
    return {name: layer for name, layer in candidates.items() if name in chosen}


def select_by_name(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Linear]:
    """Layers whose qualified name matches a shell-style pattern, in the model's order; ``*`` also crosses dots.

    A layer that the model holds under several names is selected once, by its first name, whichever of them matched.

    Raises:
        ValueError: there is no pattern, or one matches nothing, or something that is no ``nn.Linear``.
    """
    found = find_candidates(model, patterns, whole_modules=False)
    return {name: layer for name, layer in found.items() if isinstance(layer, nn.Linear)}


def find_candidates(
    model: nn.Module,
    targets: Sequence[str],
    *,
    whole_modules: bool,
    exclude: Sequence[str] = (),
    pointwise: bool = False,
) -> dict[str, nn.Module]:
    """Linear layers that a target matches and no ``exclude`` does, by their first name, in the model's order.

    Args:
        targets: shell-style patterns; ``*`` also crosses dots.
        whole_modules: let a target match any module, and take all linear layers in it; without, every match must be
            a linear layer itself.
        exclude: shell-style patterns of layers or whole modules.
        pointwise: let 1 x 1 convolutions be candidates beside linear layers.

    Raises:
        ValueError: a pattern matches nothing or what it must not, or no layer is left.
    """
    if not targets:
        raise ValueError("expected at least one target pattern, got none; name layers such as 'decoder.*.linear2'")
    for patterns in (targets, exclude):
        check_patterns(patterns)
    # With duplicates, so that every name of a shared layer can be matched.
    modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    matched: set[nn.Module] = set()
    for pattern in targets:
        found = _match("target", pattern, modules, whole_modules=whole_modules)
        if not whole_modules:
            _require_layers(pattern, found, pointwise)
        layers = _layers_in(found.values(), pointwise)
        if not layers:
            name, module = next(iter(found.items()))
            raise ValueError(
                f"target '{pattern}' holds no nn.Linear, got {type(module).__name__} at '{name}'; widen it"
            )
        matched |= layers
    left = set(matched)
    for pattern in exclude:
        left -= _layers_in(_match("exclude", pattern, modules, whole_modules=True).values(), pointwise)
    if not left:
        raise ValueError(
            f"exclude {', '.join(map(repr, exclude))} leaves none of the {len(matched)} layers that the targets match; "
            f"narrow it"
        )
    first_names: dict[nn.Module, str] = {}
    for name, module in modules.items():
        if module in left:
            first_names.setdefault(module, name)
    return {name: layer for layer, name in first_names.items()}


def leave_out_zeros(layers: Mapping[str, Layer]) -> dict[str, Layer]:
    """The layers but those whose weight is zero, for a method that works through the weight and could not move them.

    Layers that start at zero have such weights until a model has been trained, TubeDETR's ``fast_residual`` for one.

    Raises:
        ValueError: no layer is left.

    Warns:
        UserWarning: a layer is left out.
    """
    zeros = [name for name, layer in layers.items() if not weight_matrix(layer).any()]
    if not zeros:
        return dict(layers)
    names = ", ".join(map(repr, zeros))
    cause = "as in a model that was not trained; give trained weights: --model.weights"
    if len(zeros) == len(layers):
        raise ValueError(f"nothing to tune: all weights of {names} are zero, {cause}, or name other targets")
    warnings.warn(f"{names} stays as it is, for its weight is zero, {cause}", stacklevel=4)
    return {name: layer for name, layer in layers.items() if name not in zeros}


def select_modules(model: nn.Module, scope: Sequence[str]) -> dict[str, nn.Module]:
    """Whole modules whose qualified name matches a shell-style pattern; one may lie in another.

    A module that the model holds under several names is selected by its first name, whichever of them matched.

    Raises:
        ValueError: a pattern matches nothing.
    """
    check_patterns(scope)
    first_names = {module: name for name, module in model.named_modules()}
    modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    matched: dict[str, nn.Module] = {}
    for pattern in scope:
        found = {name: module for name, module in modules.items() if fnmatchcase(name, pattern)}
        if not found:
            children = ", ".join(f"'{name}'" for name, _ in model.named_children())
            raise ValueError(f"scope '{pattern}' matches no module; the model's parts are {children}")
        matched |= {first_names[module]: module for module in found.values()}
    return matched


def measure_layers(
    layers: Mapping[str, nn.Module], *, rule: RankRule = "exact", threshold: float | None = None
) -> dict[str, Spectrum]:
    """The spectrum of each layer's weight, at about 4 ms for 256 x 256 and 10 ms for 256 x 2048 on one CPU core."""
    return {
        name: measure_spectrum(weight_matrix(layer), rule=rule, threshold=threshold) for name, layer in layers.items()
    }


def choose_layers(
    spectra: Mapping[str, Spectrum], *, strategy: Strategy, share: float = 0.1, seed: int = 0
) -> frozenset[str]:
    """The names that a strategy chooses among the candidates, whose order decides between equal rank ratios.

    A weight of rank 0 is never chosen, see :func:`leave_out_zeros`.

    Raises:
        ValueError: all weights are zero, ``structural`` finds no exact null space, or the share is out of range.

    Warns:
        UserWarning: layers of one rank ratio were parted, for the share ends among them.
    """
    check_choice(strategy, share)
    spectra = {name: spectrum for name, spectrum in spectra.items() if spectrum.rank}
    if not spectra:
        raise ValueError("nothing to choose from: the weight of every candidate is zero; name other targets")
    if strategy == "all":
        return frozenset(spectra)
    if strategy == "structural":
        structural = frozenset(name for name, spectrum in spectra.items() if spectrum.exact_nullity)
        if not structural:
            raise ValueError(
                f"none of the {len(spectra)} candidates has an exact null space; choose strategy 'high_nullity' with "
                f"rule 'relative' or 'energy', or widen the targets"
            )
        return structural
    count = _count(share, len(spectra))
    if strategy == "random":
        return _draw(spectra, count, seed)
    ratios = {name: spectrum.rank_ratio for name, spectrum in spectra.items()}
    ranked = sorted(ratios, key=lambda name: ratios[name], reverse=strategy == "low_nullity")  # ties stay in order
    _warn_of_parted(ratios, ranked, count, strategy)
    return frozenset(ranked[:count])


def check_choice(strategy: Strategy, share: float) -> None:
    """Refuse a strategy that does not exist, and a share that is none.

    Raises:
        ValueError: so.
    """
    if strategy not in get_args(Strategy):
        raise ValueError(f"strategy must be one of {', '.join(get_args(Strategy))}, got {strategy!r}")
    if not 0 < share <= 1:
        raise ValueError(f"share of the candidates must lie in (0, 1], got {share}")


def check_patterns(patterns: Sequence[str]) -> None:
    """Refuse one pattern in the place of several, whose letters would each be taken for one.

    Raises:
        ValueError: so.
    """
    if isinstance(patterns, str):
        raise ValueError(f"expected a list of patterns, got the text {patterns!r}; write [{patterns!r}]")


def _count(share: float, candidates: int) -> int:
    """The share as it is written, rounded up: in binary 0.07 of 100 is a little more than 7, and would be 8."""
    return math.ceil(Fraction(str(float(share))) * candidates)


def _draw(names: Iterable[str], count: int, seed: int) -> frozenset[str]:
    return frozenset(sorted(names, key=lambda name: derive_seed("layer selection", seed, name))[:count])


def _warn_of_parted(ratios: Mapping[str, float], ranked: Sequence[str], count: int, strategy: Strategy) -> None:
    last = ratios[ranked[count - 1]]
    if count == len(ranked) or ratios[ranked[count]] != last:
        return
    tied = [name for name in ranked if ratios[name] == last]
    taken = sum(name in tied for name in ranked[:count])
    warnings.warn(
        f"'{strategy}' parts layers of equal rank ratio: of {len(tied)} with {last:.4g} it takes {taken}, the first in "
        f"the model's order; another rule, threshold or share may tell them apart",
        stacklevel=3,
    )


def _match(role: str, pattern: str, modules: Mapping[str, nn.Module], *, whole_modules: bool) -> dict[str, nn.Module]:
    found = {name: module for name, module in modules.items() if fnmatchcase(name, pattern)}
    if not found:
        raise ValueError(f"{role} '{pattern}' matches no module; {_suggest(pattern, modules, whole_modules)}")
    return found


def _require_layers(pattern: str, found: Mapping[str, nn.Module], pointwise: bool) -> None:
    for name, module in found.items():
        if not _is_layer(module, pointwise):
            kind = type(module).__name__
            raise ValueError(f"target '{pattern}' must match nn.Linear only, got {kind} at '{name}'; narrow it")


def _layers_in(modules: Iterable[nn.Module], pointwise: bool = False) -> set[nn.Module]:
    return {inner for module in modules for inner in module.modules() if _is_layer(inner, pointwise)}


def _is_layer(module: nn.Module, pointwise: bool) -> bool:
    """Whether a module is a linear layer, or a convolution that applies one to every position and leaves none out."""
    if isinstance(module, nn.Linear):
        return True
    if not pointwise or not isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return False
    return {*module.kernel_size, *module.stride, module.groups} == {1} and set(module.padding) == {0}


def _suggest(pattern: str, modules: Mapping[str, nn.Module], whole_modules: bool) -> str:
    names = [
        name
        for name, module in modules.items()
        if isinstance(module, nn.Linear) or (whole_modules and _layers_in([module]))
    ]
    close = get_close_matches(pattern, names, n=5, cutoff=0.4) or names[:5]
    if not close:
        return "the model has no nn.Linear at all"
    what = "nn.Linear layers, and modules that hold some," if whole_modules else "nn.Linear layers"
    return f"{what} with close names: " + ", ".join(f"'{name}'" for name in close)
