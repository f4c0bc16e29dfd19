"""Numerical agreement of the whole CG-STVG at full size with the official model, under deterministic weights.

The golden files lie beside the project; without them these tests skip.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stvg_nst.boxes import cxcywh_to_xyxy, paired_giou
from stvg_nst.inference import join_passes, split_passes
from stvg_nst.losses import GroundingLoss
from stvg_nst.models import CGSTVG
from stvg_nst.models.blocks.positions import grid_positions
from stvg_nst.models.cgstvg.official import ALIASES, NAMES
from stvg_nst.models.cgstvg.regions import region_bounds
from stvg_nst.types import Batch, ClipInfo, GroundingOutput, Quality, Tube

pytestmark = pytest.mark.slow

TERMS = {
    "boxes": "loss_bbox",
    "giou": "loss_giou",
    "confidence": "loss_conf",
    "start_end": "loss_sted",
    "actioness": "loss_actioness",
}
BOXES = {"atol": 2e-5, "rtol": 0.0}
LOGITS = {"atol": 1e-4, "rtol": 0.0}
QUERIES = ("the sentence whose tokens the golden file holds",)


class Tokens:
    """A tokenizer that knows one batch of sentences, by their tokens."""

    def __init__(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> None:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        self._tokens = SimpleNamespace(input_ids=input_ids, attention_mask=mask)

    def __call__(self, queries: list[str], *, padding: str, return_tensors: str) -> SimpleNamespace:
        assert len(queries) == len(self._tokens.input_ids)
        return self._tokens


def golden(cgstvg: Path, name: str) -> dict[str, Tensor]:
    with np.load(cgstvg / "golden" / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files if arrays[key].dtype.kind != "U"}


@pytest.fixture(scope="module")
def model(
    build_full_size: Callable[[], CGSTVG], rule: ModuleType, shapes: dict[str, tuple[int, ...]], cgstvg: Path
) -> CGSTVG:
    """Every weight by the golden files' rule."""
    checksums = json.loads((cgstvg / "golden" / "00_weights_crc32.json").read_text())
    weights: dict[str, Tensor] = {}
    for key, shape in shapes.items():
        if NAMES.translate_name(key) is not None:
            values = rule.make_value(key, shape)
            assert zlib.crc32(values.tobytes()) == checksums[key]["crc32"], key
            weights |= NAMES.translate_tensor(key, torch.from_numpy(values))
    model = build_full_size()
    constants = {key: value for key, value in model.state_dict().items() if key.endswith("position_index")}
    model.load_state_dict({**weights, **constants}, assign=True)
    return model.eval()


def canonical(key: str) -> str:
    return next((head + key.removeprefix(alias) for alias, head in ALIASES.items() if key.startswith(alias)), key)


def split_name(name: str) -> list[str]:
    """Our names of an official tensor, whose packed projections are three of ours."""
    stem, packed, kind = name.partition(".in_proj_")
    return [f"{stem}.{part}_proj.{kind}" for part in "qkv"] if packed else [name]


@dataclass
class Seen:
    """What passes through the model on its way to the answer."""

    tokens: Tensor = field(default_factory=lambda: torch.empty(0))
    chosen: list[Tensor] = field(default_factory=list)


@contextmanager
def watch(model: CGSTVG) -> Iterator[Seen]:
    seen = Seen()

    def keep_tokens(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        seen.tokens = output

    def keep_choices(module: nn.Module, inputs: tuple) -> tuple:
        anchors, memory, rule = inputs

        def recording(boxes: Tensor, confidence: Tensor) -> Tensor:
            seen.chosen.append(rule(boxes, confidence))
            return seen.chosen[-1]

        return anchors, memory, recording

    hooks = [
        model.encoder.register_forward_hook(keep_tokens),
        model.box_decoder.register_forward_pre_hook(keep_choices),
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def set_up(
    model: CGSTVG, data: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch, thresholds: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Frames (1, T, 3, H, W) and their mask; the model gets the file's sentence and thresholds."""
    monkeypatch.setattr(model.text, "tokenizer", Tokens(data["input_ids"]))
    monkeypatch.setattr(model, "actioness_threshold", thresholds[0])
    monkeypatch.setattr(model, "confidence_threshold", thresholds[1])
    frames = data["video"][None]
    return frames, torch.ones(frames.shape[:2], dtype=torch.bool)


def assert_same_answer(output: GroundingOutput, data: dict[str, Tensor]) -> None:
    def official(name: str) -> Tensor:
        return torch.cat((data[f"aux_{name}"], data[name][None]))

    torch.testing.assert_close(output.boxes[:, 0], official("pred_boxes"), **BOXES)
    torch.testing.assert_close(output.confidence[:, 0], official("boxes_conf"), **BOXES)
    torch.testing.assert_close(output.start_end, official("pred_sted")[:, 0][:, None], **LOGITS)
    torch.testing.assert_close(output.actioness[:, 0], official("pred_actioness")[:, 0, :, 0], **LOGITS)


def assert_same_regions(output: GroundingOutput, grid: tuple[int, int], data: dict[str, Tensor]) -> None:
    bounds = [region_bounds(boxes, torch.tensor([grid])) for boxes in output.boxes.detach()]
    assert torch.equal(torch.cat(bounds), data["roi_int"])


@torch.no_grad()
def test_image_encoder(model: CGSTVG, cgstvg: Path) -> None:
    data = golden(cgstvg, "02_vis_encoder")
    features = model.visual(data["video"][None])
    torch.testing.assert_close(features[0], data["feat"], **LOGITS)
    projected = model.visual_proj(features.flatten(3).transpose(2, 3))[0].transpose(1, 2)
    torch.testing.assert_close(projected.unflatten(2, data["feat"].shape[-2:]), data["input_proj"], **LOGITS)
    positions = grid_positions(~data["feat_mask"], model.width).transpose(1, 2)
    torch.testing.assert_close(positions.unflatten(2, data["feat"].shape[-2:]), data["pos"], atol=2e-5, rtol=0)


@torch.no_grad()
def test_text_encoder(model: CGSTVG, cgstvg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = golden(cgstvg, "04_text")
    monkeypatch.setattr(model.text, "tokenizer", Tokens(data["input_ids"], data["attention_mask"]))
    tokens, mask = model.text(QUERIES * 2)
    assert torch.equal(mask, ~data["text_mask"])
    torch.testing.assert_close(tokens[mask], data["text_memory"].transpose(0, 1)[mask], **LOGITS)


@torch.no_grad()
@pytest.mark.parametrize("case", ["07_full_A_hcstvg", "07_full_B_vidstg"])
def test_answer(model: CGSTVG, cgstvg: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    data = golden(cgstvg, case)
    # The mask of the second case hides pixels but no cell of the grid, so that the original does not use it either.
    assert not data["encoded_mask"].any()
    frames, mask = set_up(model, data, monkeypatch, (data["theta_t"].item(), data["theta_s"].item()))
    features = model.encode(frames, mask)
    with watch(model) as seen:
        output = model.ground(features, mask, QUERIES)
    assert_same_answer(output, data)
    torch.testing.assert_close(seen.tokens[0].mean(-1).T, data["encoded_feature_mean"], **LOGITS)
    torch.testing.assert_close(seen.tokens[0].mean(1), data["frames_cls"], **LOGITS)
    assert torch.equal(torch.cat(seen.chosen), data["ctx_mask"])
    assert data["ctx_mask"].any() and not data["ctx_mask"].all()
    assert_same_regions(output, tuple(features.cell_mask.shape[1:]), data)


def test_training_step(model: CGSTVG, cgstvg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Context by the ground truth, as in the official training; dropout off. All gradients, from pixels to heads."""
    data = golden(cgstvg, "08_trainpath_hcstvg")
    frames, mask = set_up(model, data, monkeypatch, (0.5, 0.8))
    inside = data["actioness"].bool()[None]
    true = torch.zeros(1, inside.shape[1], 4)
    true[inside] = data["gt_boxes_cxcywh"]

    def near_the_truth(boxes: Tensor, confidence: Tensor) -> Tensor:
        return inside & (paired_giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(true)) > data["theta_s_gt"])

    features = model.encode(frames, mask)
    with watch(model) as seen:
        output = model.ground(features, mask, QUERIES, near_the_truth)
    assert_same_answer(output, data)
    assert_same_regions(output, tuple(features.cell_mask.shape[1:]), data)
    assert torch.equal(torch.cat(seen.chosen), data["ctx_mask"])

    batch = Batch((None,), None, None, mask, (), true, inside, torch.zeros(1))  # type: ignore[arg-type]
    loss = GroundingLoss()
    terms = loss(output, batch)
    with np.load(cgstvg / "golden" / "08_trainpath_hcstvg.npz") as arrays:
        expected = dict(zip(arrays["loss_names"].tolist(), arrays["loss_values"].tolist(), strict=True))
    for ours, official in TERMS.items():
        values = [terms[ours][stage].item() for stage in range(6)]
        assert values == pytest.approx([*(expected[f"{official}_{i}"] for i in range(5)), expected[official]], rel=1e-5)
    total = loss.total(terms)
    assert total.item() == pytest.approx(float(data["total_loss"]), rel=1e-5)

    total.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad(set_to_none=True)
    golden_gradients = json.loads((cgstvg / "golden" / "08_trainpath_hcstvg_grads.json").read_text())
    compared = 0
    for key, norm in golden_gradients["grad_norm"].items():
        name = NAMES.translate_name(canonical(key))
        if name is None:
            assert not norm, f"{key} has a gradient in the original, and no counterpart here"
            continue
        parts = [gradients[part] for part in split_name(name)]
        ours = torch.cat(parts).double().norm().item()
        # The original skips the context's layers where no frame was chosen, and leaves their gradients undefined.
        if norm is not None and norm > 1e-4:
            assert ours == pytest.approx(norm, rel=1e-3), key
            compared += 1
        else:
            assert ours < 2e-4, key
        if (first := golden_gradients["grad_first3"].get(key)) is not None:
            assert parts[0].flatten()[: len(first)].tolist() == pytest.approx(
                first, rel=1e-3, abs=1e-3 * max(norm or 0, 1e-3)
            )
    assert compared == sum(norm is not None and norm > 1e-4 for norm in golden_gradients["grad_norm"].values())


def test_two_pass_evaluation(model: CGSTVG, cgstvg: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = golden(cgstvg, "11_do_eval")
    frames, mask = set_up(model, data, monkeypatch, (0.5, 0.8))
    info = ClipInfo(
        item_id="golden",
        query=QUERIES[0],
        sentence_type="declarative",
        quality=Quality.HQ,
        degradation=None,
        frame_ids=tuple(data["frame_ids"].tolist()),
        target=Tube(0, 1, torch.zeros(1, 4)),
        native_size=tuple(data["ori_hw"].tolist()),
        native_length=38,
        fps=25.0,
        video="golden.mp4",
    )
    inside = data["actioness"].bool()[None]
    size = (frames.shape[-2], frames.shape[-1])
    batch = Batch((info,), frames, None, mask, (size,), torch.zeros(1, 11, 4), inside, torch.zeros(1))
    with torch.no_grad():
        outputs = [
            model(part.frames, part.frame_mask, part.queries, part.frame_sizes)
            for part in split_passes(batch, "two_pass")
        ]
    (tube,) = join_passes(outputs, (info,), "two_pass")
    assert (tube.start, tube.stop) == tuple(data["out_sted"].tolist())
    known = data["out_frame_ids"].tolist()
    assert known == list(range(38))
    torch.testing.assert_close(tube.boxes, data["out_boxes"][tube.start : tube.stop].float(), atol=0.01, rtol=0)
