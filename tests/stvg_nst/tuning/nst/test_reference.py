"""The reference bank, eq. (2), and where a model's reference comes from."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from stvg_nst.models.base import Reference
from stvg_nst.tuning.nst import NullSpaceTuning, ReferenceTokens
from stvg_nst.tuning.nst.reference import ReferenceBank, masked_mean

QUALITIES = torch.tensor([0, 1, 1])


def test_eq_2_bank_by_hand():
    visual = torch.arange(16.0).view(1, 2, 4, 2)
    reference = Reference(
        visual=visual.requires_grad_(),
        visual_mask=torch.tensor([[[True, True, False, False], [True, True, True, True]]]),
        text=torch.full((1, 2, 2), 7.0),
        text_mask=torch.tensor([[True, False]]),
        frame_mask=torch.tensor([[True, False]]),
        memory_mask=torch.ones(1, 2, 3, dtype=torch.bool),
    )
    bank = ReferenceBank.of(reference)
    # Frame 0 is real, and its first two tokens are: (0, 1) and (2, 3).
    assert bank.tokens.tolist() == [[[1.0, 2.0], [7.0, 7.0], [7.0, 7.0]]]
    assert bank.mask.tolist() == [[True, True, False]]
    assert bank.frame_mask.tolist() == [[True, False]]
    assert bank.grids[1].mask.tolist() == [[[True] * 3, [False] * 3]]
    assert not bank.tokens.requires_grad


def test_masked_mean_ignores_what_padding_holds():
    values = torch.tensor([[[1.0], [3.0], [float("inf")]], [[float("nan")]] * 3])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert masked_mean(values, mask).tolist() == [[2.0], [0.0]]


class Pointwise(nn.Module):
    """A frozen model that grounds nothing: maps in, logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=2)
        self.mix = nn.Conv2d(12, 5, 1)
        self.out = nn.Linear(5, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.out(self.mix(self.stem(images).relu()).flatten(2).transpose(1, 2)).mean(1)


def test_any_frozen_module_will_do_whose_reference_is_named(toy):
    torch.manual_seed(0)
    model, images = Pointwise(), torch.randn(3, 3, 9, 9)
    expected = model(images)
    tuner = NullSpaceTuning(["mix", "out"], rank=4, reference=ReferenceTokens("stem", width=12))
    report = tuner.inject(model)
    assert [(layer.name, layer.shape, layer.nullity) for layer in report.layers] == [
        ("mix", (5, 12), 7),
        ("out", (2, 5), 3),
    ]
    torch.testing.assert_close(model(images), expected, atol=1e-6, rtol=0)
    for layer in toy.layers_of(model):
        nn.init.normal_(layer.unit.row_head.outer.weight, std=0.5)
    literal = copy.deepcopy(model)
    for layer in toy.layers_of(literal):
        layer.forward_mode = "literal"
    torch.testing.assert_close(literal(images), model(images), atol=1e-5, rtol=1e-5)
    assert (model(images) - expected).abs().max() > 1e-2
    losses = tuner.auxiliary_losses(QUALITIES)
    (model(images).sum() + sum(losses.values())).backward()
    with tuner.override_gate(0.0):
        torch.testing.assert_close(model(images), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("coefficients_from", ["reference_and_gap", "input"])
def test_a_layer_of_one_token_a_sample_is_tuned_as_any_other(toy, coefficients_from):
    model, images = nn.Sequential(Pointwise(), nn.Linear(2, 7)), torch.randn(3, 3, 9, 9)
    expected = model(images)
    tuner = NullSpaceTuning(
        ["1"], rank=2, heads=2, reference=ReferenceTokens("0.stem", width=12), coefficients_from=coefficients_from
    )
    tuner.inject(model)
    assert torch.equal(model(images), expected)
    nn.init.normal_(model[1].unit.row_head.outer.weight)
    (model(images).sum() + sum(tuner.auxiliary_losses(QUALITIES).values())).backward()
    assert model[1].unit.row_head.outer.weight.grad.any()
    assert tuner.diagnostics()["gate/1"].shape == (3,)
    with tuner.override_gate(torch.tensor([0.0, 0.0, 1.0])):
        changed = (model(images) != expected).any(dim=1)
    assert changed.tolist() == [False, False, True]


def test_a_model_without_a_named_reference_or_with_two_is_refused(toy):
    with pytest.raises(ValueError, match=r"Pointwise has no module 'trunk'.* it has 'stem', 'mix', 'out'"):
        NullSpaceTuning(["mix"], rank=4, reference=ReferenceTokens("trunk", width=12)).inject(Pointwise())
    with pytest.raises(ValueError, match="router 'layer' and one gate a clip, got router 'shared'"):
        NullSpaceTuning(["mix"], rank=4, reference=ReferenceTokens("stem", 12), router="shared").inject(Pointwise())
    with pytest.raises(ValueError, match="has a reference of its own, got 'head'"):
        NullSpaceTuning(["head"], rank=4, reference=ReferenceTokens("head", 9)).inject(toy.ToyGrounder())


@pytest.mark.parametrize("width", [5, 12])
def test_a_reference_of_another_width_or_shape_is_refused(width):
    model = Pointwise()
    source = "stem" if width == 5 else "out"  # maps (B, 12, ...), and tokens of width 2
    NullSpaceTuning(["mix"], rank=2, heads=1, reference=ReferenceTokens(source, width=width)).inject(model)
    twin = copy.deepcopy(model)
    for each in (model, twin):
        with pytest.raises(
            ValueError, match=rf"tokens \(B, N, {width}\) or maps .*; name another module, or the width"
        ):
            each.get_submodule(source)(torch.randn(3, 3, 9, 9) if width == 5 else torch.randn(3, 5))


class Sequences(nn.Module):
    """Tokens (B, N, 4) in, logits out; ``order`` is how its last layer is shown them."""

    def __init__(self, order):
        super().__init__()
        self.embed, self.out, self.order = nn.Linear(4, 8), nn.Linear(8, 2), order

    def forward(self, tokens):
        found = self.embed(tokens)
        return self.out(found.flatten(0, 1) if self.order == "flat" else found.transpose(0, 1))


@pytest.mark.parametrize(("order", "shape"), [("flat", r"\(15, 8\)"), ("sequence first", r"\(5, 3, 8\)")])
def test_an_input_that_does_not_lead_with_the_samples_is_refused(order, shape):
    model = Sequences(order)
    NullSpaceTuning(["out"], rank=2, heads=1, reference=ReferenceTokens("embed", width=8)).inject(model)
    with pytest.raises(ValueError, match=f"'out' must lead with the 3 samples of the reference, got {shape}; keep"):
        model(torch.randn(3, 5, 4))


@pytest.mark.parametrize("shape", [(2,), (3, 1), ()])
def test_there_is_one_quality_for_each_sample(shape):
    model = Pointwise()
    tuner = NullSpaceTuning(["mix"], rank=2, heads=1, reference=ReferenceTokens("stem", width=12))
    tuner.inject(model)
    model(torch.randn(3, 3, 9, 9))
    with pytest.raises(ValueError, match="quality of each of the 3 clips that 'mix' was shown"):
        tuner.auxiliary_losses(torch.zeros(shape, dtype=torch.long))


def test_no_layer_takes_the_reference_of_the_forward_before():
    model, images = nn.Sequential(Pointwise(), nn.Linear(2, 7)), torch.randn(3, 3, 9, 9)
    tuner = NullSpaceTuning(["0.mix"], rank=2, heads=1, reference=ReferenceTokens("0.out", width=2))
    tuner.inject(model)
    with tuner.bypass():
        model(images)
    with pytest.raises(RuntimeError, match=r"'0\.mix' ran before any reference was seen"):
        model(images)


@pytest.mark.parametrize("shape", [(3, 4, 48), (3, 5, 2, 48), (2, 5, 48), (15, 48)])
def test_an_input_of_unknown_layout_is_refused(toy, tuned, shape):
    grounder, _ = tuned()
    grounder(*toy.toy_batch())
    message = rf"'decoder.linear2' must lead with one of \(3, 5\), \(3, 5, 10\), \(3, 5, 4\), got \({shape[0]}, "
    with pytest.raises(ValueError, match=message):
        grounder.decoder.linear2(torch.zeros(shape))


def test_a_layer_that_runs_before_the_reference_says_so(toy, tuned):
    grounder, tuner = tuned()
    with pytest.raises(RuntimeError, match="'head' ran before any reference was seen"):
        grounder.head(torch.zeros(3, 5, 16))
    for read in (tuner.diagnostics, lambda: tuner.auxiliary_losses(QUALITIES)):
        with pytest.raises(RuntimeError, match=r"3 of 3 did not, such as 'encoder\.linear2'"):
            read()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_work_alone_and_follow_their_own_reference(toy, tuned, duplicate):
    grounder, tuner = tuned()
    expected = toy.flat(grounder(*toy.toy_batch()))  # leaves tensors with a graph behind, which no copy may meet
    twin, twin_tuner = duplicate((grounder, tuner))
    assert twin.head is twin.alias[0]
    other = toy.flat(twin(*toy.toy_batch(1)))
    assert not torch.equal(other, expected)
    assert torch.equal(toy.flat(twin(*toy.toy_batch())), expected)
    before = tuner.diagnostics()
    twin(*toy.toy_batch(1))
    twin_tuner.auxiliary_losses(QUALITIES)["reg"].backward()
    assert twin.head.unit.row_head.outer.weight.grad is not None
    assert grounder.head.unit.row_head.outer.weight.grad is None
    assert torch.equal(tuner.diagnostics()["gate/head"], before["gate/head"])
