from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from callbacks import NullSpaceMonitor
from callbacks.nullspace_monitor import PARTS, gradient_norms, separation, separation_by_kind
from stvg_nst.tuning.nst.unit import QualityAdaptiveUnit


def test_training_diagnostics_every_n_steps(run: Any) -> None:
    run.fit(NullSpaceMonitor(every_n_steps=2), max_epochs=2)  # 6 steps
    events = run.events()
    assert [point.step for point in events.Scalars("nullspace/row_energy/decoder.0")] == [0, 2, 4]
    assert [point.value for point in events.Scalars("nullspace/row_energy/decoder.0")] == [2.0] * 3
    assert events.Scalars("nullspace/gate/decoder.1")[0].value == pytest.approx(
        0.5
    )  # a batch of one HQ and one LQ clip
    assert events.Scalars("gradient_norm/row_head")[0].value > 0
    assert events.Scalars("energy/row")[0].value == 2.0 and "energy/null" not in events.Tags()["scalars"]
    assert "gradient_norm/null_head" not in events.Tags()["scalars"], "the task gives the null head no gradient"


def test_gates_are_told_apart_by_quality_after_each_validation(run: Any) -> None:
    run.fit(NullSpaceMonitor(), max_epochs=2)
    events = run.events()
    for quality, expected in (("HQ", 0.1), ("LQ", 0.9)):
        histograms = events.Histograms(f"gates/{quality}")
        assert [event.step for event in histograms] == [3, 6], "none for the sanity check"
        for event in histograms:
            assert event.histogram_value.num == 6  # 3 clips in 2 layers
            assert event.histogram_value.sum == pytest.approx(6 * expected)
        assert events.Scalars(f"gates/mean_{quality}")[-1].value == pytest.approx(expected)


def test_separation_of_the_gates_is_logged_by_layer_and_over_all(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Layer 0 is right, layer 1 is wrong by less; a hard gate rounds both to naught, and its router still tells.
    verdicts = {"decoder.0": (0.1, 0.4), "decoder.1": (0.3, 0.2)}

    def diagnostics(tuner: Any) -> dict[str, torch.Tensor]:
        values = {f"router/{layer}": torch.tensor(pair)[tuner.last] for layer, pair in verdicts.items()}
        return values | {f"gate/{layer}": torch.zeros(len(tuner.last)) for layer in verdicts}

    monkeypatch.setattr(type(run.module.tuner), "diagnostics", diagnostics)
    run.fit(NullSpaceMonitor())
    events = run.events()
    scores = {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"] if "auroc" in tag}
    expected = {"gate_auroc/decoder.0": 1.0, "gate_auroc/decoder.1": 0.0, "gates/auroc": 1.0}
    assert scores == {**expected, "auroc_by_kind/motion_blur": 1.0}
    assert [event.step for event in events.Scalars("gates/auroc")] == [3], "none for the sanity check"


def test_a_gate_without_a_router_is_scored_as_it_is(run: Any) -> None:
    run.fit(NullSpaceMonitor())
    assert run.events().Scalars("gates/auroc")[0].value == 1.0


def test_a_pass_that_lacks_a_clip_is_left_out(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two passes does, where a clip has one frame."""
    monkeypatch.setattr(
        type(run.module.tuner), "diagnostics", lambda tuner: {"gate/decoder.0": torch.full((len(tuner.last) - 1,), 0.5)}
    )
    run.fit(NullSpaceMonitor(every_n_steps=1000))
    assert not [tag for tag in run.events().Tags()["scalars"] if tag.startswith("gates/")]


def test_separation_by_hand() -> None:
    qualities = torch.tensor([0, 1, 0, 1])
    verdict = torch.tensor([0.2, 0.3, 0.4, 0.9])  # of the four pairs of HQ and LQ, three are in order
    constant = torch.ones(4)  # an open gate: every pair is a tie
    scores = separation({"a": verdict, "b": constant}, qualities)
    assert scores == pytest.approx({"gate_auroc/a": 0.75, "gate_auroc/b": 0.5, "gates/auroc": 0.75})
    shared = separation({"a": verdict, "b": verdict}, qualities)  # one router: no curve for each layer
    assert shared == pytest.approx({"gates/auroc": 0.75})
    assert separation({"a": verdict}, torch.ones(4, dtype=torch.long)) == {}


def test_separation_by_kind_by_hand() -> None:
    verdict = torch.tensor([0.2, 0.4, 0.3, 0.9, 0.1])
    conditions = ["HQ", "HQ", "defocus:2", "low_light:1", "low_light:5"]
    scores = separation_by_kind({"a": verdict}, conditions)
    assert scores == pytest.approx({"auroc_by_kind/defocus": 0.5, "auroc_by_kind/low_light": 0.5})
    assert separation_by_kind({"a": verdict[2:]}, conditions[2:]) == {}


def test_tuner_without_diagnostics_logs_none(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(run.module.tuner), "diagnostics", lambda self: {})
    run.fit(NullSpaceMonitor(every_n_steps=1))
    tags = run.events().Tags()
    assert not [tag for tag in tags["scalars"] if tag.startswith(("nullspace/", "gate"))]
    assert tags["histograms"] == []


def test_without_tensorboard_nothing_is_computed(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(run.module.tuner), "diagnostics", lambda self: pytest.fail("was asked for diagnostics"))
    run.fit(NullSpaceMonitor(every_n_steps=1), logger=False)


def test_gradient_norm_is_that_of_all_layers_together() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({layer: nn.ModuleDict({"row_head": nn.Linear(3, 2)}) for layer in ("a", "b")})
    sum(head["row_head"](torch.randn(4, 3)).square().sum() for head in model.values()).backward()
    stacked = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    assert gradient_norms(model).keys() == {"row_head"}
    torch.testing.assert_close(gradient_norms(model)["row_head"], stacked.norm())


def test_interval_must_be_positive() -> None:
    with pytest.raises(ValueError, match="every_n_steps must be at least 1, got 0"):
        NullSpaceMonitor(every_n_steps=0)


def test_parts_are_those_of_the_quality_adaptive_unit() -> None:
    choices = {"gate_per": "clip", "coefficients_from": "reference", "coefficients_per": "token", "routes": True}
    unit = QualityAdaptiveUnit(8, 4, width=4, row_rank=2, null_rank=2, heads=2, hidden=4, **choices)
    assert set(PARTS) <= {name for name, _ in unit.named_children()}
