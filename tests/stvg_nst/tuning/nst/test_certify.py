"""The certificate of the toy grounder, in every mode of the gate."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from stvg_nst.inference import split_passes
from stvg_nst.report.certificate import Certificate, LayerCertificate, OutputChange, certificate_sheet
from stvg_nst.report.sheet import print_sheet, sheet_console
from stvg_nst.tuning.nst import NullSpaceLinear, NullSpaceTuning
from stvg_nst.tuning.nst.certify import certify, standing_of, worst_leak
from stvg_nst.tuning.nst.residual import DualSpaceReparameterization
from stvg_nst.types import Batch, ClipInfo, Degradation, Quality, Tube

QUALITIES = (Quality.HQ, Quality.LQ, Quality.LQ)


def make_batch(toy, seed: int = 0) -> Batch:
    """The toy's three clips, of which the second has 3 frames and 2 of padding; the first is HQ."""
    frames, frame_mask, queries = toy.toy_batch(seed)
    clips = [
        ClipInfo(
            item_id=f"item-{seed}-{index}",
            query=query,
            sentence_type="declarative",
            quality=quality,
            degradation=Degradation("defocus", 3, 7) if quality is Quality.LQ else None,
            frame_ids=tuple(range(0, 2 * int(mask.sum()), 2)),
            target=Tube(0, 2, torch.zeros(2, 4)),
            native_size=(48, 64),
            native_length=10,
            fps=8.0,
            video="item.mp4",
        )
        for index, (query, quality, mask) in enumerate(zip(queries, QUALITIES, frame_mask, strict=True))
    ]
    return Batch(
        clips=tuple(clips),
        frames=frames,
        features=None,
        frame_mask=frame_mask,
        frame_sizes=((8, 8),) * 3,
        boxes=torch.zeros(3, 5, 4),
        inside=torch.zeros(3, 5, dtype=torch.bool),
        qualities=torch.tensor([int(quality) for quality in QUALITIES]),
    )


@pytest.fixture
def certified(toy):
    """Layers by name and changes by (gate, clips) of a toy whose branches are random, on two batches."""

    def run(targets=toy.TARGETS, *, grounder=None, change=None, batches=None, inference="single_pass", **options):
        grounder = toy.ToyGrounder() if grounder is None else grounder
        tuner = NullSpaceTuning(targets, **{"rank": 6, "hidden": 16, "seed": 0} | options)
        report = tuner.inject(grounder)
        generator = torch.Generator().manual_seed(1)
        for layer in (module for module in grounder.modules() if isinstance(module, NullSpaceLinear)):
            for head in (layer.unit.row_head, layer.unit.null_head):
                if head is not None:
                    head.outer.weight.data.copy_(torch.randn(head.outer.weight.shape, generator=generator))
        if change is not None:
            change(grounder)
        batches = [make_batch(toy), make_batch(toy, 1)] if batches is None else batches
        layers, changes, _ = certify(grounder, tuner, report, batches, inference=inference)
        return {layer.name: layer for layer in layers}, {(row.gate, row.clips): row for row in changes}

    return run


def test_a_soft_gate_is_guaranteed_when_closed_and_observed_otherwise(certified):
    layers, changes = certified()
    assert [*changes] == [("closed", "HQ"), ("closed", "LQ"), ("own", "HQ"), ("own", "LQ")]
    for (gate, clips), row in changes.items():
        assert row.count == {"HQ": 2, "LQ": 4}[clips]
        assert row.standing == ("guarantee" if gate == "closed" else "observation")
        assert row.none == (gate == "closed")
        if gate == "own":
            assert min(row.boxes, row.confidence, row.start_end, row.actioness) > 1e-3
            assert row.count >= row.tubes >= row.spans
            assert row.tubes > 0
    assert [layer.name for layer in layers.values()] == ["encoder.linear2", "decoder.linear2", "head"]


def test_an_exact_layer_leaks_rounding_literally_and_nothing_separately(certified):
    layers, _ = certified()
    for layer in layers.values():
        assert layer.separate == 0
        assert 0 < layer.literal["fp32"] < 1e-5 < layer.literal["fp16"] < layer.literal["bf16"] < 0.5
        assert layer.size > 0.01, "a residual too small to matter would certify nothing"
        assert layer.sigma_next < 1e-12
        assert layer.worst < 1e-6, "the basis is rounded to single precision"
        assert layer.rank_ratio == pytest.approx(layer.rank / layer.shape[1])
    assert (layers["head"].shape, layers["head"].rank, layers["head"].nullity) == ((9, 16), 9, 7)


def test_a_leaking_layer_is_bounded_by_its_worst_leak(certified):
    layers, changes = certified(["encoder.linear1", "head"], rank=9, rank_rule="relative", rank_threshold=0.4)
    leaking = layers["encoder.linear1"]
    assert 0 < leaking.nullity <= 9, "all null directions are in use, so the worst leak is the null space's"
    assert leaking.worst == pytest.approx(leaking.sigma_next, rel=1e-5)
    assert leaking.separate == pytest.approx(leaking.literal["fp32"], rel=1e-3)
    assert leaking.separate > 1e-3
    for clips in ("HQ", "LQ"):
        assert changes["closed", clips].standing == "bound"
        assert not changes["closed", clips].none


def test_a_layer_without_a_null_branch_has_nothing_to_leak(certified):
    layers, _ = certified(["encoder.linear1", "head"])
    row = layers["encoder.linear1"]
    assert (row.nullity, row.worst, row.size, row.separate) == (0, None, None, None)
    assert set(row.literal.values()) == {None}


def test_the_literal_form_is_no_more_than_bounded(certified):
    _, changes = certified(forward_mode="literal")
    assert {row.standing for row in changes.values()} == {"bound", "observation"}
    assert changes["closed", "HQ"].start_end < 1e-5


@pytest.mark.parametrize("bias", [-9.0, 9.0])
@pytest.mark.parametrize("router", ["layer", "shared"])
@pytest.mark.parametrize("options", [{}, {"forward_mode": "literal", "rank_rule": "relative", "rank_threshold": 0.4}])
def test_a_hard_gate_is_exact_on_the_clips_that_it_closes_on(certified, router, bias, options):
    def decide(grounder):
        for name, parameter in grounder.named_parameters():
            if ".router." in name or "reference_point.router.router" in name:
                parameter.data.zero_()
                if name.endswith("outer.bias"):
                    parameter.data.fill_(bias)

    _, changes = certified(gate="hard", router=router, change=decide, **options)
    closed = changes["own", "closed"]
    assert closed.standing == "guarantee"
    assert closed.count == (6 if bias < 0 else 0)
    assert closed.none
    assert changes["own", "HQ"].none == (bias < 0)
    assert changes["own", "HQ"].standing == "observation", "the router's verdict on another clip is unknown"


def test_an_oracle_closes_on_what_is_labelled_hq(certified):
    _, changes = certified(gate="oracle")
    assert changes["own", "closed"].count == changes["own", "HQ"].count == 2
    assert changes["own", "HQ"].none
    assert not changes["own", "LQ"].none
    assert changes["closed", "LQ"].none, "the label opens no gate that is forced shut"


def test_an_open_gate_closes_on_nothing(certified):
    _, changes = certified(gate="open")
    assert ("own", "closed") not in changes
    assert not changes["own", "HQ"].none


@pytest.mark.parametrize(
    ("options", "gate", "group", "leaks", "standing"),
    [
        ({}, "closed", "HQ", False, "guarantee"),
        ({}, "closed", "HQ", True, "bound"),
        ({}, "own", "HQ", False, "observation"),
        ({"forward_mode": "literal"}, "closed", "HQ", False, "bound"),
        ({"gate": "hard", "forward_mode": "literal"}, "closed", "LQ", True, "guarantee"),  # skipped altogether
        ({"gate": "hard", "forward_mode": "literal"}, "own", "closed", True, "guarantee"),
        ({"gate": "hard", "router": "shared"}, "own", "closed", True, "guarantee"),
        ({"gate": "hard"}, "own", "closed", False, "guarantee"),
        ({"gate": "hard"}, "own", "HQ", False, "observation"),
        ({"gate": "oracle"}, "own", "closed", True, "bound"),
    ],
)
def test_standing(options, gate, group, leaks, standing):
    assert standing_of(NullSpaceTuning(["head"], **options), gate, group, leaks=leaks) == standing


@pytest.mark.parametrize(("router", "forward_mode"), [("shared", "separate"), ("layer", "literal")])
def test_what_skips_a_clip_is_exact_though_layers_leak(certified, router, forward_mode):
    options = {"gate": "hard", "router": router, "forward_mode": forward_mode}
    leaking = {"rank_rule": "relative", "rank_threshold": 0.4}
    _, changes = certified(["encoder.linear1", "head"], **options, **leaking)
    assert changes["closed", "HQ"].standing == "guarantee"
    assert changes["closed", "HQ"].none and changes["closed", "LQ"].none


def test_a_clip_that_is_shown_in_two_passes_counts_once_with_its_larger_change(certified, toy):
    whole = make_batch(toy)
    # The second clip has one frame, and so one pass.
    clips = [
        replace(clip, frame_ids=clip.frame_ids[: 1 if index == 1 else 5]) for index, clip in enumerate(whole.clips)
    ]
    mask = whole.frame_mask.clone()
    mask[1, 1:] = False
    whole = replace(whole, clips=tuple(clips), frame_mask=mask)
    _, changes = certified(batches=[whole], inference="two_pass")
    alone = [certified(batches=[part])[1] for part in split_passes(whole, "two_pass")]
    for key, row in changes.items():
        assert row.count == {"HQ": 1, "LQ": 2}[key[1]]
        for name in ("boxes", "confidence", "start_end", "actioness"):
            found = [getattr(part[key], name) for part in alone]
            assert getattr(row, name) == pytest.approx(max(found), rel=1e-5)
        assert row.none == (key[0] == "closed")
    assert alone[0]["own", "LQ"].count == 2 and alone[1]["own", "LQ"].count == 1


def test_a_clip_is_closed_on_where_all_of_its_passes_are(certified, toy, monkeypatch):
    gates = iter([torch.tensor([0.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 1.0])])  # of each pass
    monkeypatch.setattr(NullSpaceTuning, "diagnostics", lambda self: {"gate/head": next(gates)})
    _, changes = certified(batches=[make_batch(toy)], inference="two_pass", gate="hard", router="shared")
    assert changes["own", "closed"].count == 1


def test_the_hq_null_space_is_measured_on_both_qualities(toy):
    grounder, tuner = toy.ToyGrounder(), NullSpaceTuning(toy.TARGETS, rank=6, seed=0, row_input="hq_null")
    report = tuner.inject(grounder)
    clean = [torch.zeros(1), torch.zeros(1)]  # the toy's first clip, which is HQ, twice
    tuner.calibrate(grounder, clean, lambda batch: grounder(*(part[:1] for part in toy.toy_batch())))
    for layer in toy.layers_of(grounder):
        layer.unit.row_head.outer.weight.data.fill_(0.1)
    _, changes, rows = certify(grounder, tuner, report, [make_batch(toy)])
    assert [row.name for row in rows] == ["encoder.linear2", "decoder.linear2", "head"]
    for row in rows:
        assert (row.clips, row.inputs) == (2, {"encoder.linear2": 40, "decoder.linear2": 48, "head": 16}[row.name])
        assert 0 < row.directions < row.inputs
        assert 0 < row.hq_passed <= 0.01 < row.lq_passed, "the bound holds on what was measured, and on nothing else"
        assert 0 < row.hq_added < row.lq_added
    opened = {row.clips: row for row in changes if row.gate == "open"}
    assert {row.standing for row in opened.values()} == {"observation"}
    assert opened["LQ"].start_end > opened["HQ"].start_end > 0

    (mask,) = {tuple(call.mask.shape) for call in tuner._state.read(["head"], close=False)["head"]}
    assert mask == (3, 5)
    seen: list[torch.Tensor] = []
    grounder.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with tuner.bypass(), torch.no_grad():
        grounder(*toy.toy_batch())
    tokens = torch.stack(seen)[:, 0]  # both calls, the HQ clip, whose frames are all real
    share = (tokens @ grounder.head.unit.row_head.space.projection).square().sum() / tokens.square().sum()
    assert rows[2].hq_passed == pytest.approx(share.item(), rel=1e-4)


def test_a_quality_without_a_clip_has_no_share(toy):
    grounder, tuner = toy.ToyGrounder(), NullSpaceTuning(["head"], rank=6, row_input="hq_null")
    report = tuner.inject(grounder)
    tuner.calibrate(grounder, [make_batch(toy)], lambda batch: grounder(batch.frames, batch.frame_mask, batch.queries))
    batch = replace(make_batch(toy), qualities=torch.tensor([0, 0, 0]))
    _, _, (row,) = certify(grounder, tuner, report, [batch])
    assert row.hq_passed is not None and row.hq_added == 0
    assert row.lq_passed is row.lq_added is None


def test_a_broken_guarantee_is_shown_as_broken(certified, monkeypatch, capsys):
    image = DualSpaceReparameterization.image
    monkeypatch.setattr(DualSpaceReparameterization, "image", lambda self, *rest: image(self, *rest) + 1e-3)
    layers, changes = certified()
    certificate = Certificate(
        run="runs/broken",
        adapter="0" * 64,
        gate="soft",
        forward_mode="separate",
        basis="svd",
        dataset="Toy",
        split="test",
        data={},
        left_out=0,
        device="cpu",
        layers=tuple(layers.values()),
        changes=tuple(changes.values()),
    )
    assert [(row.gate, row.clips) for row in certificate.broken] == [("closed", "HQ"), ("closed", "LQ")]
    print_sheet(certificate_sheet(certificate), sheet_console())
    assert "guarantee BROKEN" in capsys.readouterr().out


def test_what_padding_holds_changes_nothing(toy, certified):
    batch = make_batch(toy)
    expected = certified(batches=[batch])
    batch.frames[1, 3:] = 50.0
    layers, changes = certified(batches=[batch])
    assert changes == expected[1]
    for name, layer in layers.items():
        assert layer.literal == pytest.approx(expected[0][name].literal)


def test_what_overflows_is_no_number(toy, certified):
    grounder = toy.ToyGrounder()
    grounder.decoder.linear1.weight.data *= 1e6
    layers, _ = certified(["decoder.linear2"], grounder=grounder)
    leaks = layers["decoder.linear2"].literal
    assert leaks["fp16"] is None
    assert leaks["fp32"] is not None


def test_worst_leak_by_hand():
    weight = torch.tensor([[4.0, 0.0, 0.0], [0.0, 0.5, 0.0]])
    assert worst_leak(weight, torch.tensor([[0.0], [0.0], [7.0]])) == 0
    # Of the unit vectors in a span it is the worst, however its basis is scaled.
    assert worst_leak(weight, torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 9.0]])) == pytest.approx(0.5)
    assert worst_leak(weight, torch.eye(3)) == pytest.approx(4.0)


def test_no_batch_certifies_nothing(certified):
    with pytest.raises(ValueError, match="at least one batch of clips, got none"):
        certified(batches=[])


def test_an_unchanged_answer_is_one_in_every_number():
    same = {"boxes": 0.0, "confidence": 0.0, "start_end": 0.0, "actioness": 0.0, "tubes": 0, "spans": 0}
    assert OutputChange("closed", "HQ", 3, "guarantee", **same).none
    for name in ("boxes", "confidence", "start_end", "actioness", "tubes"):
        assert not OutputChange("closed", "HQ", 3, "guarantee", **same | {name: 1}).none
    assert LayerCertificate("a", (4, 16), 4, 12, 0.0, 0.0, 1.0, {}, 0.0).rank_ratio == 0.25
