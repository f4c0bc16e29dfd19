"""What clean clips show to the layers of a frozen model: the second moments of the layers' inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from stvg_nst.models.base import Reference, ReferencePoint, frozen_layer, grid_of
from stvg_nst.tuning.base import CleanBatch


@dataclass(frozen=True, slots=True)
class CleanInputs:
    """What was measured.

    Args:
        moments: by layer, the mean of ``x x^T`` over the real tokens x of its input, (d_in, d_in) float64 on the CPU.
        clips: how many were seen.
    """

    moments: Mapping[str, Tensor]
    clips: int


@torch.no_grad()
def measure_clean_inputs(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Iterable[CleanBatch],
    forward: Callable[[CleanBatch], object],
) -> CleanInputs:
    """Run clean clips through a model, and measure what enters some of its layers.

    In a grounder, padding does not count. In a model without a reference point every token is real.

    Args:
        model: in eval mode, computing the pre-trained function.
        layers: by name, linear layers or 1 x 1 convolutions, or wrappers of such.
        batches, forward: as in :meth:`stvg_nst.tuning.Tuner.calibrate`.

    Raises:
        ValueError: there is no clip, or the padding of a layer's input is unknown.
        RuntimeError: a layer was not called.
    """
    points = [module for module in model.modules() if isinstance(module, ReferencePoint)]
    probe, clips = _Probe(knows_padding=bool(points)), 0
    with ExitStack() as hooks:
        for point in points:
            hooks.callback(point.register_forward_hook(probe.see_reference).remove)
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_pre_hook(partial(probe.see_input, name)).remove)
        for batch in batches:
            probe.reference = None
            forward(batch)
            clips += len(batch)
    if not clips:
        raise ValueError(
            "expected at least one clean clip of the tuning set to calibrate on, got none; raise the number of clips "
            "that the tuner asks for, or tune on more clips"
        )
    if missing := [name for name in layers if name not in probe.moments]:
        raise RuntimeError(
            f"expected every tuned layer to run on clean clips, but {len(missing)} of {len(layers)} did not, such as "
            f"'{missing[0]}'; take what the model never calls out of the targets"
        )
    return CleanInputs({name: probe.moments[name].mean().cpu() for name in layers}, clips)


class _Moment:
    def __init__(self, width: int, device: torch.device) -> None:
        self.total = torch.zeros(width, width, dtype=torch.float64, device=device)
        self.tokens = 0

    def mean(self) -> Tensor:
        return self.total / max(self.tokens, 1)


class _Probe:
    def __init__(self, *, knows_padding: bool) -> None:
        self.moments: dict[str, _Moment] = {}
        self.reference: Reference | None = None
        self._knows_padding = knows_padding

    def see_reference(self, point: nn.Module, inputs: tuple[Tensor, ...], reference: Reference) -> None:
        self.reference = reference

    def see_input(self, name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        (x,) = inputs
        if not isinstance(frozen_layer(layer), nn.Linear):
            x = x.movedim(1, -1)  # of a convolution
        # In double precision: the energies that tell directions apart may be far apart themselves.
        tokens = x[self._real(x, name)].double()
        moment = self.moments.setdefault(name, _Moment(x.shape[-1], x.device))
        moment.total += tokens.T @ tokens
        moment.tokens += len(tokens)

    def _real(self, x: Tensor, layer: str) -> Tensor:
        """Which tokens of x (B, ..., d_in) are no padding, (B, ...)."""
        if not self._knows_padding:
            return torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device)
        if self.reference is None:
            raise ValueError(
                f"'{layer}' ran ahead of the reference point, where the padding of its input is unknown; take it out "
                "of --model.tuner.init_args.targets"
            )
        return grid_of(self.reference.grids, x, layer).mask


def check_calibration_clips(clips: int) -> None:
    """Refuse to calibrate on nothing.

    Raises:
        ValueError: so.
    """
    if clips < 1:
        raise ValueError(
            f"calibration_clips must be at least 1, got {clips}; change --model.tuner.init_args.calibration_clips"
        )
