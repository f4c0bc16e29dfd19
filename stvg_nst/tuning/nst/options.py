"""The options of null-space tuning, and what follows from them alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, get_args

from stvg_nst.nullspace import RankRule
from stvg_nst.tuning.clean_inputs import check_calibration_clips
from stvg_nst.tuning.hq_null import check_energy
from stvg_nst.tuning.nst.layer import ForwardMode, Gate
from stvg_nst.tuning.nst.reference import ReferenceTokens
from stvg_nst.tuning.nst.residual import Basis
from stvg_nst.tuning.nst.router import RouterReads
from stvg_nst.tuning.nst.unit import CoefficientsFrom, CoefficientsPer, GatePer, RowInput
from stvg_nst.tuning.selection import Strategy

RouterPlace = Literal["layer", "shared"]
GateTraining = Literal["router", "label"]


@dataclass(kw_only=True)
class RouterOptions:
    """What a recipe with a router chooses of it, whatever its gate is put before."""

    retrieval_width: int | None = None
    """Width that the reference is retrieved at, eq. (3); the grounding model's if not given. Retrieval is most of the
    cost, and falls in proportion."""

    heads: int = 4
    """Heads of the cross-attention to the reference bank."""

    hidden: int | None = None
    """Hidden width of the router, and of the coefficient heads where there are any; the width of retrieval if not
    given."""

    router_reads: RouterReads = "gap"
    """What a router ahead of all layers reads: the semantic gap of the grounding model's visual tokens, as in the
    paper, or statistics of the frozen encoders' features, which tell mild degradations better."""

    false_alarms: float | None = None
    """Share of clean clips that may open a hard gate, such as 0.01. When a fit ends, the threshold is set by the clean
    clips of the validation split, and kept with the adapter. Without it the threshold is a probability of one half."""

    lambda_router: float = 0.5
    """Weight of the router's loss in the objective, eq. (6)."""

    seed: int | None = None
    """Of the initial values, which depend on it, the layer's name and the options that shape its tensors, and not on
    the other layers; the run's seed if not given."""

    free_fields: ClassVar[frozenset[str]] = frozenset({"false_alarms", "lambda_router", "seed"})

    def __post_init__(self) -> None:
        for name in ("hidden", "retrieval_width"):
            if (width := getattr(self, name)) is not None and width < 1:
                raise ValueError(f"{name} must be at least 1, got {width}; leave it out for the model's width")
        if self.router_reads not in get_args(RouterReads):
            raise ValueError(
                f"router_reads must be one of {', '.join(get_args(RouterReads))}, got {self.router_reads!r}"
            )
        if self.false_alarms is not None and not 0 < self.false_alarms < 1:
            raise ValueError(f"false_alarms is a share between 0 and 1, or null, got {self.false_alarms}")

    def width(self, bank_width: int) -> int:
        """w, the width of retrieval from a bank of that width.

        Raises:
            ValueError: the heads do not divide it.
        """
        width = bank_width if self.retrieval_width is None else self.retrieval_width
        if self.heads < 1 or width % self.heads:
            raise ValueError(
                f"heads must divide the width of retrieval {width}, got {self.heads}; "
                f"change --model.tuner.init_args.heads"
            )
        return width


@dataclass
class NullSpaceOptions(RouterOptions):
    """What a recipe of null-space tuning chooses."""

    targets: Sequence[str]
    """Shell-style patterns over layer names, such as ``decoder.*.linear2``. With strategy ``all`` each must match
    linear layers only; the other strategies choose from all linear layers in what the patterns name."""

    strategy: Strategy = "all"
    """Which of the targets are tuned: all, a share of the lowest or the highest rank ratio, a random share, or those
    with an exact null space."""

    share: float = 0.1
    """Of the targets, for the strategies that take a share."""

    exclude: Sequence[str] = field(default_factory=list)
    """Patterns of layers or whole modules that are no targets though a pattern matches them."""

    rank: int | None = 64
    """Directions of each subspace that a layer may use; fewer where a subspace has fewer, and ``null`` for all of them.
    The paper uses 64."""

    gate: Gate = "soft"
    """``hard`` rounds the gate at inference, which preserves clips judged high-quality exactly; training is soft.
    Controls: ``oracle`` takes the quality label for the gate, ``open`` holds it at 1; neither has a router."""

    gate_training: GateTraining = "router"
    """What the gate is while training: what the router says, as in the paper, or the clip's quality label. Under
    ``label`` the layers learn with the gate that eq. (6) asks of the router, and the router learns beside them. No
    label is read in validation and test. It needs a shared router: one in a layer would see what the label did to the
    layers ahead of it."""

    gate_jitter: float = 0.0
    """Under ``gate_training: label``, how far from the label each gate may be drawn, uniformly, in [0, 0.5]. Layers
    that have seen such gates know what a soft gate does at inference."""

    gate_per: GatePer = "clip"
    """One gate for a whole clip, or one for each frame."""

    router: RouterPlace = "layer"
    """A router in each wrapped layer, or one for the clip, shared by all and ahead of them."""

    coefficients_from: CoefficientsFrom = "reference"
    """What the coefficients are computed from: the retrieved reference, that beside the semantic gap, or, as a control
    without retrieval, the layer's input."""

    coefficients_per: CoefficientsPer = "token"
    """One residual for each token, or one for all tokens of a frame or a clip, from their mean."""

    row_input: RowInput = "shared"
    """What the row branch computes its coefficients from: what ``coefficients_from`` says, as the null branch does
    (``shared``), or the layer's input in directions in which clean clips have next to no energy (``hq_null``). With the
    latter even an open gate does little to a clean clip. They are measured before the first step, and kept in 4 d_in^2
    bytes a layer."""

    hq_energy: float = 0.99
    """Under ``row_input: hq_null``, the share of the clean clips' energy that lies outside those directions."""

    calibration_clips: int = 64
    """Under ``row_input: hq_null``, how many clean clips of the tuning set they are measured on; all where there are
    fewer."""

    basis: Basis = "svd"
    """Where the directions come from: the weight's own subspaces, or, as controls, random ones, fixed or learned.
    ``svd_whitened`` divides each direction of the row space by its singular value: all their images have length 1."""

    null_branch: bool = True
    """Whether the residual has a part in the null space; without, as a control, only the gate protects a clip."""

    forward_mode: ForwardMode = "separate"
    """``separate`` adds the residual's image to the output; ``literal`` adds the residual to the input, and rounds."""

    reference: ReferenceTokens | None = None
    """Where the reference comes from in a model that is no grounder; a grounder has its own."""

    rank_rule: RankRule = "exact"
    """Which singular values make the row space: all above the weight's own rounding noise, those above a share of the
    largest (``relative``), or the fewest that hold a share of the energy (``energy``). The latter two make a null space
    of weights that have none, which leaks: read ``leakage`` in the report."""

    rank_threshold: float | None = None
    """The share, for the rules that take one."""

    spaces: Path | None = None
    """Folder that keeps the decompositions, so that no later start computes them again; without one nothing is kept."""

    lambda_reg: float = 1e-3
    """Weight of the subspace regulariser, eq. (7), in the objective, eq. (6)."""

    lambda_leak: float = 0.0
    """Weight of what the null branch passes to the output: as a control, the constraint as a loss and no structure."""

    # The layers themselves are compared, lambdas and seed end with training, and the two modes share weights. So do
    # the soft and the hard gate, and the two without a router; the tensors tell these pairs apart.
    free_fields: ClassVar[frozenset[str]] = RouterOptions.free_fields | frozenset(
        {
            *("targets", "strategy", "share", "exclude", "gate", "gate_training", "gate_jitter", "forward_mode"),
            *("lambda_reg", "lambda_leak", "spaces"),
            *("row_input", "hq_energy", "calibration_clips"),
        }
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        choices = {
            "gate": Gate,
            "gate_training": GateTraining,
            "gate_per": GatePer,
            "router": RouterPlace,
            "coefficients_from": CoefficientsFrom,
            "coefficients_per": CoefficientsPer,
            "row_input": RowInput,
            "basis": Basis,
            "forward_mode": ForwardMode,
        }
        for name, literal in choices.items():
            if (value := getattr(self, name)) not in get_args(literal):
                raise ValueError(f"{name} must be one of {', '.join(get_args(literal))}, got {value!r}")
        if self.false_alarms is not None and not self.routes_ahead:
            raise ValueError(
                f"false_alarms needs router 'shared' and gate 'soft' or 'hard', got router '{self.router}' and gate "
                f"'{self.gate}': only one gate for all layers has one threshold"
            )
        if self.router_reads == "statistics" and not self.routes_ahead:
            raise ValueError(
                f"router_reads 'statistics' needs router 'shared' and gate 'soft' or 'hard', got router "
                f"'{self.router}' and gate '{self.gate}': a router in a layer sees the layer's input, and no features"
            )
        check_energy(self.hq_energy)
        check_calibration_clips(self.calibration_clips)
        if self.gate_training == "label" and not self.routes_ahead:
            raise ValueError(
                f"gate_training 'label' needs router 'shared' and gate 'soft' or 'hard', got router '{self.router}' "
                f"and gate '{self.gate}': a router in a layer would read the label in what other layers made of it"
            )
        if not 0 <= self.gate_jitter <= 0.5 or (self.gate_jitter and self.gate_training != "label"):
            raise ValueError(
                f"gate_jitter must lie in [0, 0.5], and be 0 unless gate_training is 'label', got {self.gate_jitter}"
            )
        if self.gate_per == "frame" and self.coefficients_per == "clip":
            raise ValueError("a gate for each frame cannot act on one residual a clip; set coefficients_per to frame")

    @property
    def routes(self) -> bool:
        """Whether routers decide; a control's gate comes from elsewhere."""
        return self.gate in ("soft", "hard")

    @property
    def routes_ahead(self) -> bool:
        """Whether one router decides for all layers, ahead of them."""
        return self.routes and self.router == "shared"
