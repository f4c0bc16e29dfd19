"""Puts null-space tuning into a frozen model: decomposes the target layers, and draws what is trained."""

from __future__ import annotations

from torch import nn

from stvg_nst.models.base import Grounder
from stvg_nst.nullspace import DualSpace, DualSpaceStore, split_dual_space, weight_matrix
from stvg_nst.tuning.base import LayerReport, TunedLinear
from stvg_nst.tuning.initial_values import drawn, own_or_run_seed
from stvg_nst.tuning.nst.layer import NullSpaceLinear
from stvg_nst.tuning.nst.options import NullSpaceOptions, RouterOptions
from stvg_nst.tuning.nst.reference import ForwardState
from stvg_nst.tuning.nst.residual import DualSpaceReparameterization
from stvg_nst.tuning.nst.router import GapRouter, SharedRouter, StatisticsRouter
from stvg_nst.tuning.nst.unit import CoefficientsFrom, GatePer, QualityAdaptiveUnit
from stvg_nst.tuning.selection import select_layers

# Enough for eq. (7) to have something to shrink, too little to matter where a null space is exact.
NULL_HEAD_STD = 1e-2


def wrap_layers(
    options: NullSpaceOptions, grounder: nn.Module, bank_width: int, state: ForwardState
) -> tuple[dict[nn.Module, TunedLinear], tuple[LayerReport, ...]]:
    """The wrapper of each target layer, by the layer it is for, and a report of each; the model stays as it is.

    Args:
        bank_width: D, the width of the reference bank.
        state: shared by all wrapped layers.

    Raises:
        ValueError: an option does not fit the model or a layer.
    """
    options.width(bank_width)  # refused before anything is decomposed
    check_router(options, grounder)
    targets = select_layers(
        grounder,
        options.targets,
        strategy=options.strategy,
        share=options.share,
        rule=options.rank_rule,
        threshold=options.rank_threshold,
        seed=own_or_run_seed(options.seed),
        exclude=options.exclude,
        pointwise=not isinstance(grounder, Grounder),
    )
    if options.rank is not None:
        for name, layer in targets.items():
            _check_rank(name, layer, options.rank)

    split = split_dual_space if options.spaces is None else DualSpaceStore(options.spaces).get
    wrapped: dict[nn.Module, TunedLinear] = {}
    reports = []
    for name, layer in targets.items():
        space = split(weight_matrix(layer), rule=options.rank_rule, threshold=options.rank_threshold)
        if not space.rank:
            raise ValueError(
                f"'{name}' has rank 0: its weight is no more than rounding noise; take it out of the targets"
            )
        wrapped[layer] = wrapper = _wrap_layer(options, name, layer, space, bank_width, state)
        reports.append(_report(wrapper, space))
    return wrapped, tuple(reports)


def check_router(options: RouterOptions, model: nn.Module) -> None:
    """Refuse a router that the model has nothing for, ahead of any change to the model.

    Raises:
        ValueError: it reads statistics of features, and the model does not say how wide these are.
    """
    if options.router_reads == "statistics" and not getattr(model, "feature_channels", ()):
        raise ValueError(
            f"router_reads 'statistics' needs the channels of the encoders' features, and {type(model).__name__} "
            "has no feature_channels; set it, or router_reads to gap"
        )


def put_router(
    options: RouterOptions,
    grounder: Grounder,
    source: nn.Module,
    *,
    per: GatePer,
    coefficients_from: CoefficientsFrom,
) -> None:
    """Give the reference point ``source`` one router ahead of all wrapped layers, of the grounder's device and dtype.

    :func:`check_router` must have had nothing against it.
    """
    width = options.width(grounder.width)
    router: SharedRouter
    with drawn(options.seed, "router"):
        if options.router_reads == "statistics":
            router = StatisticsRouter(grounder.feature_channels, hidden=options.hidden or width, per=per)
        else:
            router = GapRouter(
                grounder.width,
                width=width,
                heads=options.heads,
                hidden=options.hidden or width,
                per=per,
                coefficients_from=coefficients_from,
            )
    source.router = router.to(next(grounder.parameters()))


def _check_rank(name: str, layer: nn.Module, rank: int) -> None:
    d_in = weight_matrix(layer).shape[1]
    if not 1 <= rank <= d_in:
        raise ValueError(
            f"rank must lie in [1, {d_in}] for '{name}' ({d_in} inputs), got {rank}"
            f"; {'raise' if rank < 1 else 'lower'} --model.tuner.init_args.rank"
        )


def _wrap_layer(
    options: NullSpaceOptions, name: str, layer: nn.Module, space: DualSpace, bank_width: int, state: ForwardState
) -> NullSpaceLinear:
    weight, width = weight_matrix(layer), options.width(bank_width)
    # The basis has a stream of its own, so that a control that draws it shares all else with null-space tuning.
    with drawn(options.seed, f"{name}/basis"):
        dual_space = DualSpaceReparameterization(
            weight, space, rank=options.rank, null_branch=options.null_branch, basis=options.basis
        )
    with drawn(options.seed, name):
        unit = QualityAdaptiveUnit(
            space.shape[1],
            bank_width,
            width=width,
            row_rank=dual_space.row_basis.shape[1],
            null_rank=dual_space.null_basis.shape[1],
            heads=options.heads,
            hidden=options.hidden or width,
            routes=options.routes and options.router == "layer",
            gate_per=options.gate_per,
            coefficients_from=options.coefficients_from,
            coefficients_per=options.coefficients_per,
            row_input=options.row_input,
        )
        # Tuning starts from the pre-trained function: what reaches the output, a leak included, starts at zero.
        nn.init.zeros_(unit.row_head.outer.weight)
        if unit.row_head.outer.bias is not None:
            nn.init.zeros_(unit.row_head.outer.bias)
        if unit.null_head is not None:
            nn.init.normal_(unit.null_head.outer.weight, std=0.0 if dual_space.leaks else NULL_HEAD_STD)
            nn.init.zeros_(unit.null_head.outer.bias)
    wrapper = NullSpaceLinear(
        layer,
        name=name,
        unit=unit,
        dual_space=dual_space,
        gate=options.gate,
        forward_mode=options.forward_mode,
        state=state,
    )
    return wrapper.to(device=weight.device, dtype=weight.dtype)


def _report(wrapper: NullSpaceLinear, space: DualSpace) -> LayerReport:
    k_r, k_n = wrapper.dual_space.row_basis.shape[1], wrapper.dual_space.null_basis.shape[1]
    return LayerReport(
        name=wrapper.name,
        shape=space.shape,
        rank=space.rank,
        nullity=space.nullity,
        leakage=space.leakage,
        adapter=f"row {k_r}, null {k_n}" if k_n else f"row {k_r}, no null branch",
    )
