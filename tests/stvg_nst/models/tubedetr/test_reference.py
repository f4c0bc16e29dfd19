"""Numerical agreement with the official TubeDETR behind its encoders of images and sentences.

The golden files lie beside the project; without them these tests skip.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from stvg_nst.boxes import cxcywh_to_xyxy, paired_giou, paired_iou
from stvg_nst.models import TubeDETR
from stvg_nst.models.blocks import ImageEncoder, TextEncoder
from stvg_nst.models.blocks.decoder import FrameMemory
from stvg_nst.models.blocks.positions import grid_positions
from stvg_nst.models.tubedetr.model import time_codes
from stvg_nst.models.tubedetr.official import NAMES
from stvg_nst.types import GroundingOutput
from tests.stvg_nst.models.tubedetr.golden import (
    BOXES,
    CLOSE,
    TERMS,
    Golden,
    batch_first,
    official_terms,
    real_frames,
    true_batch,
)

BEHIND_ENCODERS = (
    "transformer.encoder.",
    "transformer.decoder.",
    "transformer.fast_",
    "query_embed.",
    "bbox_embed.",
    "sted_embed.",
)


@pytest.fixture(scope="module")
def model(golden: Golden) -> TubeDETR:
    """All that lies behind the encoders as in the original, and small encoders that nothing here calls."""
    visual = ImageEncoder("resnet18", 4, {"channels": [8, 8, 8, 8]})
    made = TubeDETR(visual, TextEncoder("stvg_nst/models/mini", 256))
    weights = golden.weights(*BEHIND_ENCODERS)
    own = [name for name in made.state_dict() if not name.startswith(("visual", "text"))]
    assert sorted(own) == sorted(weights)
    made.load_state_dict(weights, strict=False)
    return made.eval()


def test_every_official_name_is_translated_or_known_to_be_unused(golden: Golden) -> None:
    names = [name for key in golden.shapes if (name := NAMES.translate_name(key)) is not None]
    assert len(golden.shapes) == golden.manifest["num_keys_new_transformers"] == 923
    assert len(names) == len(set(names)) == 920
    unused = [*golden.manifest["trainable_but_never_receive_gradient"]["keys"], "transformer.time_embed.te"]
    assert sorted(key for key in golden.shapes if NAMES.translate_name(key) is None) == sorted(unused)


def test_positions_and_boxes(golden: Golden) -> None:
    data = golden.load("01_helpers")
    found = grid_positions(~data["grid_mask"], 256).unflatten(1, data["grid_mask"].shape[1:])
    torch.testing.assert_close(found.permute(0, 3, 1, 2), data["grid_position"], atol=1e-5, rtol=0)
    times = time_codes(200, 256, torch.device("cpu"))[data["time_table_rows"]]
    torch.testing.assert_close(times, data["time_table"], atol=1e-5, rtol=0)
    a, b = cxcywh_to_xyxy(data["boxes_a"]), cxcywh_to_xyxy(data["boxes_b"])
    torch.testing.assert_close(a, data["xyxy_a"], atol=1e-5, rtol=0)
    torch.testing.assert_close(paired_iou(a, b), data["iou"], atol=1e-5, rtol=0)
    torch.testing.assert_close(paired_giou(a, b), data["giou"], atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("case", ["k1", "k2", "k5"])
def test_fusion(model: TubeDETR, golden: Golden, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    data = golden.load(f"04_fusion_{case}")
    durations, seed, stride = data["durations"], int(data["seed"]), int(data["stride"])
    clips, frames, grid = len(durations), int(durations.max()), data["grid"].tolist()
    slow = range(0, frames, stride)
    monkeypatch.setattr(model, "stride", stride)

    def tokens(maps: Tensor) -> Tensor:
        return maps.flatten(2).transpose(1, 2).unflatten(0, (clips, -1))

    slow_cells = tokens(golden.normal(seed, clips * len(slow), 256, *grid))
    places = tokens(golden.normal(seed + 1, clips * len(slow), 256, *grid))
    real = real_frames(durations)
    cells = torch.zeros(clips, frames, grid[0] * grid[1], 256)
    cells[real] = golden.normal(seed + 2, int(durations.sum()), 256, *grid).flatten(2).transpose(1, 2)
    text = golden.normal(seed + 3, data["text_mask"].shape[1], clips, 256).transpose(0, 1)
    positions = torch.cat((places, torch.zeros(clips, len(slow), text.shape[1], 256)), dim=2)
    visible = ~data["slow_mask"].unflatten(0, (clips, -1)).flatten(2)
    visible[..., 0] = True
    words = ~data["text_mask"][:, None].expand(-1, len(slow), -1)

    seen: dict[str, list[Tensor]] = {"layers": [], "fast": []}
    hooks = [
        *(layer.register_forward_hook(lambda m, x, y: seen["layers"].append(y)) for layer in model.encoder.layers),
        model.fast_encoder.register_forward_hook(lambda m, x, y: seen["fast"].append(y)),
    ]
    memory = model._fuse(slow_cells, cells, text, positions, torch.cat((visible, words), dim=2))
    for hook in hooks:
        hook.remove()
    of_slow = real[:, ::stride]
    for name, layer in (("encoder_first", 0), ("encoder_out", -1)):
        expected = batch_first(data[name], clips)
        torch.testing.assert_close(seen["layers"][layer][of_slow], expected[of_slow], **CLOSE)
    for layer, expected in zip(seen["layers"], data["encoder_layers_8"], strict=True):
        torch.testing.assert_close(layer[..., ::32][of_slow], batch_first(expected, clips)[of_slow], **CLOSE)
    torch.testing.assert_close(seen["fast"][0][real], batch_first(data["fast_out"], clips)[real], **CLOSE)
    torch.testing.assert_close(memory[real], batch_first(data["memory"], clips)[real], **CLOSE)
    query = model.query(torch.zeros(1, dtype=torch.int64)) + time_codes(frames, 256, memory.device)
    torch.testing.assert_close(query, data["query"][:, 0], **CLOSE)
    assert torch.equal(~data["query_mask"], real)


def attention_to(layer: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """The weights (B, T, M) of an attention to the memory, a mean over heads; the kernel keeps them to itself."""
    query, key, _, mask = inputs
    heads = [x.unflatten(-1, (8, -1)) for x in (layer.q_proj(query), layer.k_proj(key))]
    logits = torch.einsum("bthd,btnhd->bthn", *heads) / 32**0.5
    return logits.masked_fill(~mask[:, :, None], float("-inf")).softmax(-1).mean(2)


@torch.no_grad()
@pytest.mark.parametrize("case", ["one", "two"])
def test_decoder_and_heads(model: TubeDETR, golden: Golden, case: str) -> None:
    data = golden.load(f"05_decoder_{case}")
    durations, seed = data["durations"], int(data["seed"])
    clips, frames, tokens = len(durations), int(durations.max()), data["memory_mask"].shape[1]
    real = real_frames(durations)
    memory, places = (
        batch_first(golden.normal(seed + offset, tokens, clips * frames, 256), clips) for offset in (0, 1)
    )
    mask = ~data["memory_mask"].unflatten(0, (clips, -1))
    seen: list[Tensor] = []
    hooks = [
        layer.cross_attn.register_forward_hook(lambda m, x, y: seen.append(attention_to(m, x)))
        for layer in model.decoder.layers
    ]
    position = model.query(torch.zeros(1, dtype=torch.int64)) + time_codes(frames, 256, memory.device)
    decoded = model.decoder(FrameMemory(memory, places, mask, real), position)
    for hook in hooks:
        hook.remove()
    boxes = torch.stack([model.box_head(state).sigmoid() for state in decoded.states])
    start_end = torch.stack([model.start_end_head(state) for state in decoded.states])
    torch.testing.assert_close(decoded.states[:, real], data["states"][:, real], **CLOSE)
    torch.testing.assert_close(decoded.time_attention[:, real], data["time_attention"][:, real], **CLOSE)
    memory_attention = data["memory_attention"].unflatten(1, (clips, -1))
    torch.testing.assert_close(torch.stack(seen)[:, real], memory_attention[:, real], **CLOSE)
    torch.testing.assert_close(boxes[:, real], data["boxes"][:, real], **BOXES)
    torch.testing.assert_close(start_end[:, real], data["start_end"][:, real], **CLOSE)


@pytest.mark.parametrize("case", ["middle", "full", "one_frame", "batch", "negative_clip"])
def test_objective(model: TubeDETR, golden: Golden, case: str) -> None:
    data = golden.load(f"08_loss_{case}")
    batch = true_batch(data["durations"], data["spans"], data["true_boxes"])
    inputs = {name: data[f"pred_{name}"].requires_grad_() for name in ("boxes", "start_end")}
    attention = data["time_attention"].requires_grad_()
    output = GroundingOutput(
        boxes=inputs["boxes"][None],
        start_end=inputs["start_end"][None],
        frame_mask=batch.frame_mask,
        time_attention=attention[None],
    )
    loss = model.objective()
    terms = official_terms(loss, output, batch)
    for ours, official in TERMS.items():
        assert terms[ours].item() == pytest.approx(data[official].item(), rel=1e-5), ours
    total = torch.stack([loss.weights[name] * term.sum() for name, term in terms.items()]).sum()
    assert total.item() == pytest.approx(data["total"].item(), rel=1e-5)
    total.backward()
    real = batch.frame_mask
    for name, value in inputs.items():
        torch.testing.assert_close(value.grad[real], data[f"grad_{name}"][real], atol=1e-5, rtol=1e-5)
    pairs = real[:, :, None] & real[:, None]
    torch.testing.assert_close(attention.grad[pairs], data["grad_attention"][pairs], atol=1e-5, rtol=1e-5)
