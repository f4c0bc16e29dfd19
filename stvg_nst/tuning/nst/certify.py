"""Measures what null-space tuning leaves of the frozen model: layer by layer, and in the whole model's answers.

What is guaranteed and what is only observed is told apart by :data:`stvg_nst.report.certificate.Standing`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stvg_nst.inference import InferenceProtocol, clips_of_pass, join_passes, split_passes
from stvg_nst.models.base import Grounder
from stvg_nst.report.certificate import HQNullCertificate, LayerCertificate, OutputChange, Standing
from stvg_nst.tuning.base import InjectionReport, LayerReport
from stvg_nst.tuning.hq_null import HQNullSpace
from stvg_nst.tuning.nst import NullSpaceLinear, NullSpaceTuning
from stvg_nst.tuning.nst.unit import HQNullMlp
from stvg_nst.types import Batch, ClipInfo, GroundingOutput, Quality

PRECISIONS: Mapping[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

ForcedGate = Literal["closed", "own", "open"]
Group = Literal["HQ", "LQ", "closed"]


@torch.no_grad()
def certify(
    grounder: Grounder,
    tuner: NullSpaceTuning,
    injection: InjectionReport,
    batches: Iterable[Batch],
    *,
    inference: InferenceProtocol = "single_pass",
) -> tuple[tuple[LayerCertificate, ...], tuple[OutputChange, ...], tuple[HQNullCertificate, ...]]:
    """Show each batch to the frozen model, to the tuned one with every gate closed, and to that as it is; compare.

    Where row branches read the HQ null spaces of their inputs, every gate is opened, too.

    The layers' leaks are measured on the inputs that they have in the frozen model: real features, and those that they
    have wherever the gates ahead of them are closed.

    Args:
        grounder: a tuned model in eval mode, not folded.
        tuner: what is injected into it.
        injection: the report of that.
        batches: on the model's device, in both qualities.
        inference: how the network is shown each clip.

    Raises:
        ValueError: there is no batch, or two passes are to be made over cached features.
    """
    layers = {module.name: module for module in grounder.modules() if isinstance(module, NullSpaceLinear)}
    probes = {name: LeakProbe() for name, layer in layers.items() if layer.dual_space.null_basis.shape[1]}
    hq_probes = {
        name: HQNullProbe(layer.unit.row_head.space)
        for name, layer in layers.items()
        if isinstance(layer.unit.row_head, HQNullMlp) and layer.unit.row_head.space is not None
    }
    changes = _Changes()
    for batch in batches:
        # Of each pass: the frozen model's answer, those under each gate, and the clips that the own gates close on.
        frozen: list[GroundingOutput] = []
        answers: dict[ForcedGate, list[GroundingOutput]] = defaultdict(list)
        shut: list[Tensor] = []
        for part in split_passes(batch, inference):
            for hq_probe in hq_probes.values():
                hq_probe.qualities = part.qualities
            features = part.features
            if features is None:
                assert part.frames is not None
                features = grounder.encode(part.frames, part.frame_mask, part.frame_sizes)
            ground = partial(grounder.ground, features, part.frame_mask, part.queries)
            with tuner.bypass(), _hooked(layers, probes), _hooked(layers, hq_probes):
                frozen.append(ground())
            with tuner.override_gate(0.0):
                answers["closed"].append(ground())
            with tuner.conditioned_on(part.qualities):
                answers["own"].append(ground())
            shut.append(_closed_clips(tuner.diagnostics()))  # of the last forward
            if hq_probes:
                with tuner.override_gate(1.0):
                    answers["open"].append(ground())

        for gate, outputs in answers.items():
            groups: dict[Group, Tensor] = {"HQ": batch.qualities == Quality.HQ, "LQ": batch.qualities == Quality.LQ}
            if gate == "own" and tuner.gate in ("hard", "oracle"):
                groups["closed"] = ~_over_passes([~clips for clips in shut], batch.clips)
            changes.add(gate, groups, _compare(frozen, outputs, batch.clips, inference))

    summary = changes.summary(tuner, leaks=any(layer.dual_space.leaks for layer in layers.values()))
    return (
        tuple(_layer(report, layers[report.name], probes.get(report.name)) for report in injection.layers),
        summary,
        tuple(probe.certificate(name) for name, probe in hq_probes.items()),
    )


def standing_of(tuner: NullSpaceTuning, gate: ForcedGate, group: Group, *, leaks: bool) -> Standing:
    """What a change of the answers is worth; ``leaks`` says whether the null branch of any layer does."""
    if gate != "closed" and group != "closed":
        return "observation"
    # A hard gate leaves each clip that it closes on to the frozen layer, without the residual and its leak.
    return "guarantee" if tuner.gate == "hard" or (tuner.forward_mode == "separate" and not leaks) else "bound"


def worst_leak(weight: Tensor, basis: Tensor) -> float:
    """The most of a unit vector in the span of a basis that a weight passes, float64.

    Args:
        weight: (d_out, d_in).
        basis: (d_in, k), not necessarily orthonormal.
    """
    directions = torch.linalg.qr(basis.detach().cpu().double()).Q
    return torch.linalg.matrix_norm(weight.detach().cpu().double() @ directions, ord=2).item()


class LeakProbe:
    """A forward hook of a bypassed layer: what would its null branch, at full strength (g = 0), do to its output?"""

    def __init__(self) -> None:
        self._tokens = 0
        self._energy: dict[str, Tensor] = {}
        self._peak: dict[str, Tensor] = {}

    def __call__(self, layer: NullSpaceLinear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        (x,) = inputs
        bank = layer.state.bank_for(layer.name)
        mask = bank.grid_of(x, layer.name).mask
        found, space = layer.unit(x, bank, mask), layer.dual_space
        gate = x.new_zeros(())
        residual = space.residual(gate, found.row, found.null).expand_as(x)
        self._tokens += int(mask.sum())
        for name, value in (("input", x), ("residual", residual)):
            self._add_energy(name, value, mask)

        assert isinstance(layer.base_layer, nn.Linear), "a grounder's convolutions are not tuned"
        weight, bias = layer.base_layer.weight, layer.base_layer.bias
        for name, dtype in PRECISIONS.items():
            parameters = weight.to(dtype), None if bias is None else bias.to(dtype)
            before = F.linear(x.to(dtype), *parameters)
            after = F.linear(x.to(dtype) + residual.to(dtype), *parameters)  # Eq. (1), literally
            self._add_leak(name, before, after, mask)
        self._add_leak("separate", output, output + space.image(weight, gate, found.row, found.null), mask)

    @property
    def size(self) -> float | None:
        """Root mean square of the residual over that of the input; None where the input is zero."""
        size = (self._energy["residual"] / self._energy["input"]).sqrt()
        return size.item() if size.isfinite() else None

    def leak(self, name: str) -> float | None:
        """Largest change of a token's output over the root mean square of the outputs; None where it overflows."""
        leak = self._peak[name] / (self._energy[name] / self._tokens).sqrt()
        return leak.item() if leak.isfinite() else None

    def _add_energy(self, name: str, value: Tensor, mask: Tensor) -> None:
        energy = _norms(value, mask).square().sum()
        self._energy[name] = self._energy[name] + energy if name in self._energy else energy

    def _add_leak(self, name: str, before: Tensor, after: Tensor, mask: Tensor) -> None:
        self._add_energy(name, before, mask)
        peak = _norms(after.float() - before.float(), mask).amax()
        # Not the builtin, which would lose a NaN.
        self._peak[name] = torch.maximum(self._peak[name], peak) if name in self._peak else peak


class HQNullProbe:
    """A forward hook of a bypassed layer: how much of its input is its row branch shown, and what would it add?

    Args:
        space: that the row branch reads its input through.
    """

    qualities: Tensor
    """Of the batch that runs, (B,)."""

    def __init__(self, space: HQNullSpace) -> None:
        self._space = space
        self._energy: dict[tuple[Quality, str], Tensor] = {}

    def __call__(self, layer: NullSpaceLinear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        (x,) = inputs
        bank = layer.state.bank_for(layer.name)
        mask = bank.grid_of(x, layer.name).mask
        row = layer.unit(x, bank, mask).row
        row_image, _ = layer.dual_space.images(layer.weight_matrix)
        added = row.mapped(row_image).expand_as(output)
        values = {"input": x, "passed": self._space.project(x), "output": output, "added": added}
        for quality in Quality:
            tokens = mask & (self.qualities.to(mask.device) == quality).reshape(-1, *(1,) * (mask.ndim - 1))
            for name, value in values.items():
                energy = _norms(value, tokens).square().sum()
                self._energy[quality, name] = self._energy.get((quality, name), 0.0) + energy

    def certificate(self, name: str) -> HQNullCertificate:
        """What was found in the layer of that name."""
        return HQNullCertificate(
            name=name,
            inputs=len(self._space.projection),
            directions=round(self._space.projection.double().trace().item()),
            clips=int(self._space.clips),
            hq_passed=self._share(Quality.HQ, "passed", "input"),
            lq_passed=self._share(Quality.LQ, "passed", "input"),
            hq_added=self._root_share(Quality.HQ),
            lq_added=self._root_share(Quality.LQ),
        )

    def _root_share(self, quality: Quality) -> float | None:
        share = self._share(quality, "added", "output")
        return None if share is None else share**0.5

    def _share(self, quality: Quality, part: str, whole: str) -> float | None:
        """Of two energies; None without a clip of that quality."""
        share = self._energy[quality, part] / self._energy[quality, whole]
        return share.item() if share.isfinite() else None


def _norms(values: Tensor, mask: Tensor) -> Tensor:
    """Norms, float64, of the tokens (..., D) that the mask (...) calls real."""
    return torch.linalg.vector_norm(values, dim=-1, dtype=torch.float64)[mask]


class _Changes:
    """Changes of the answers, gathered batch by batch for each gate and group of clips."""

    def __init__(self) -> None:
        self._values: dict[tuple[ForcedGate, Group], dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))

    def add(self, gate: ForcedGate, groups: Mapping[Group, Tensor], changes: Mapping[str, Tensor]) -> None:
        """groups (B,) bool say which clips belong to them; changes are (B,)."""
        for group, members in groups.items():
            for name, values in changes.items():
                self._values[gate, group][name].append(values[members.to(values.device)].cpu())

    def summary(self, tuner: NullSpaceTuning, *, leaks: bool) -> tuple[OutputChange, ...]:
        """Largest changes and numbers of clips.

        Raises:
            ValueError: nothing was gathered.
        """
        if not self._values:
            raise ValueError("a certificate needs at least one batch of clips, got none; choose a split that has some")
        rows = []
        for (gate, group), gathered in self._values.items():
            values = {name: torch.cat(parts) for name, parts in gathered.items()}
            count = len(values["tubes"])
            said = [name for name in values if name not in ("tubes", "spans")]
            largest = {name: values[name].max().item() if count else 0.0 for name in said}
            rows.append(
                OutputChange(
                    gate=gate,
                    clips=group,
                    count=count,
                    standing=standing_of(tuner, gate, group, leaks=leaks),
                    boxes=largest["boxes"],
                    confidence=largest.get("confidence"),
                    start_end=largest["start_end"],
                    actioness=largest.get("actioness"),
                    tubes=int(values["tubes"].sum()),
                    spans=int(values["spans"].sum()),
                )
            )
        return tuple(rows)


def _compare(
    frozen: Sequence[GroundingOutput],
    outputs: Sequence[GroundingOutput],
    clips: Sequence[ClipInfo],
    inference: InferenceProtocol,
) -> dict[str, Tensor]:
    """Of each clip (B,): the largest absolute change of each output in any stage, and whether tube and span differ.

    Args:
        frozen, outputs: the answers to each pass.
        clips: B of them.
    """
    changes = {
        name: _over_passes([_largest_change(*both, name) for both in zip(frozen, outputs, strict=True)], clips)
        for name in frozen[0].answers
    }
    tubes = (join_passes(answers, clips, inference) for answers in (frozen, outputs))
    pairs = list(zip(*tubes, strict=True))
    spans = [(before.start, before.stop) != (after.start, after.stop) for before, after in pairs]
    differ = [moved or not torch.equal(a.boxes, b.boxes) for moved, (a, b) in zip(spans, pairs, strict=True)]
    return {**changes, "tubes": torch.tensor(differ), "spans": torch.tensor(spans)}


def _largest_change(frozen: GroundingOutput, output: GroundingOutput, name: str) -> Tensor:
    """(B,), in any stage and real frame."""
    change = (output.answers[name].double() - frozen.answers[name].double()).abs()  # (S, B, T) or (S, B, T, C)
    real = frozen.frame_mask.reshape(1, *frozen.frame_mask.shape, *(1,) * (change.ndim - 3))
    return change.masked_fill(~real, 0.0).transpose(0, 1).flatten(1).amax(dim=1)


def _over_passes(values: Sequence[Tensor], clips: Sequence[ClipInfo]) -> Tensor:
    """(B,), the largest that a clip has in any pass which shows it; one value for each clip of each pass."""
    largest = values[0].clone()
    for offset, value in enumerate(values[1:], start=1):
        members = clips_of_pass(clips, offset)
        largest[members] = torch.maximum(largest[members], value)  # keeps a NaN
    return largest


def _closed_clips(diagnostics: Mapping[str, Tensor]) -> Tensor:
    """(B,) bool: the clips that every layer's gate closes on, in all real frames."""
    gates = [gate for name, gate in diagnostics.items() if name.startswith("gate/")]
    return (torch.stack(gates) == 0).all(dim=0)


def _layer(report: LayerReport, layer: NullSpaceLinear, probe: LeakProbe | None) -> LayerCertificate:
    return LayerCertificate(
        name=report.name,
        shape=report.shape,
        rank=report.rank,
        nullity=report.nullity,
        sigma_next=report.leakage,
        worst=None if probe is None else worst_leak(layer.weight_matrix, layer.dual_space.null_basis),
        size=None if probe is None else probe.size,
        literal={name: None if probe is None else probe.leak(name) for name in PRECISIONS},
        separate=None if probe is None else probe.leak("separate"),
    )


@contextmanager
def _hooked(layers: Mapping[str, NullSpaceLinear], probes: Mapping[str, Callable[..., None]]) -> Iterator[None]:
    handles = [layers[name].register_forward_hook(probe) for name, probe in probes.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
