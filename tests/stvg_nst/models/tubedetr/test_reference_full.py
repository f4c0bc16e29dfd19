"""Numerical agreement of the whole TubeDETR at full size with the official model, under deterministic weights.

The golden files lie beside the project; without them these tests skip.
"""

from __future__ import annotations

import json
import zlib

import pytest
import torch
from torch import Tensor, nn

from stvg_nst.commands.weights import weights_parser
from stvg_nst.models import TubeDETR
from stvg_nst.models.blocks.positions import grid_positions
from stvg_nst.models.blocks.vocabulary import write_stand_in
from stvg_nst.models.tubedetr.official import NAMES
from stvg_nst.tubes import sample_tubes
from stvg_nst.types import GroundingOutput
from tests.stvg_nst.models.tubedetr.golden import (
    BOXES,
    CLOSE,
    TERMS,
    Golden,
    Tokens,
    batch_first,
    official_terms,
    real_frames,
    true_batch,
)
from tests.stvg_nst.models.tubedetr.test_reference import attention_to

pytestmark = pytest.mark.slow

MEMORY = {"atol": 2e-4, "rtol": 0.0}


@pytest.fixture(scope="module")
def model(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> TubeDETR:
    """The configuration `experiments/model/tubedetr.yaml` with every weight by the golden files' rule."""
    folder = tmp_path_factory.mktemp("roberta")
    write_stand_in(["a man runs"], folder)
    parser = weights_parser("test", "Full size.")
    options = ["--config=experiments/model/tubedetr.yaml", f"--model.grounder.text.source={folder}"]
    made = parser.instantiate(parser.parse_args(options)).model.grounder
    weights: dict[str, Tensor] = {}
    checksums = json.loads((golden.folder / "00_weights_crc32.json").read_text())
    for key, shape in golden.shapes.items():
        if key.endswith(".te"):
            continue
        values = golden.rule.make_value(key, shape)
        expected = checksums[key]
        assert zlib.crc32(values.tobytes()) == (expected["crc32"] if isinstance(expected, dict) else expected), key
        weights |= NAMES.translate_tensor(key, torch.from_numpy(values))
    made.load_state_dict(weights, assign=True, strict=True)
    return made.eval()


def show(
    model: TubeDETR, golden: Golden, data: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> tuple[Tensor, Tensor, list[tuple[int, int]], list[str]]:
    """What the model is called with, its stride and its sentences being those of the file."""
    monkeypatch.setattr(model, "stride", int(data["stride"]))
    sentences = [torch.from_numpy(golden.inputs.tokens(*map(int, row))) for row in data["sentences"]]
    monkeypatch.setattr(model.text, "tokenizer", Tokens(sentences))
    videos = [torch.from_numpy(golden.inputs.video(*map(int, row))) for row in data["videos"]]
    if "video_crc32" in data:
        assert [golden.inputs.crc32(video.numpy()) for video in videos] == data["video_crc32"].tolist()
    sizes = [(video.shape[-2], video.shape[-1]) for video in videos]
    longest, height, width = (max(video.shape[axis] for video in videos) for axis in (0, 2, 3))
    # Padding may hold anything.
    frames = torch.full((len(videos), longest, 3, height, width), 9.0)
    for clip, video in zip(frames, videos, strict=True):
        clip[: len(video), :, : video.shape[2], : video.shape[3]] = video
    return frames, real_frames(data["durations"]), sizes, ["a sentence whose tokens the file holds"] * len(videos)


class Clip:
    """A :class:`stvg_nst.tubes.SampledClip` of the golden files."""

    item_id, native_size = "golden", (360, 640)

    def __init__(self, frame_ids: Tensor) -> None:
        self.frame_ids = tuple(frame_ids.tolist())


def assert_same_answer(output: GroundingOutput, data: dict[str, Tensor]) -> None:
    real = real_frames(data["durations"])
    torch.testing.assert_close(output.boxes[:, real], data["pred_boxes"][:, real], **BOXES)
    torch.testing.assert_close(output.start_end[:, real], data["pred_start_end"][:, real], **CLOSE)
    assert output.time_attention is not None
    torch.testing.assert_close(output.time_attention[:, real], data["time_attention"][:, real], **CLOSE)


@torch.no_grad()
def test_image_encoder(model: TubeDETR, golden: Golden) -> None:
    data = golden.load("02_backbone")
    frames = torch.from_numpy(golden.inputs.video(int(data["seed"]), 3, *data["canvas"].tolist()))
    for frame, (height, width) in zip(frames, data["sizes"].tolist(), strict=True):
        frame[:, height:] = 0
        frame[:, :, width:] = 0
    features = model.visual(frames[None])[0]
    torch.testing.assert_close(features, data["features"], **CLOSE)
    projected = model.visual_proj(features.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (3, 3))
    torch.testing.assert_close(projected, data["input_proj"], **MEMORY)
    positions = grid_positions(~data["mask"], 256).transpose(1, 2).unflatten(2, (3, 3))
    torch.testing.assert_close(positions, data["position"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_text_encoder(model: TubeDETR, golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    data = golden.load("03_text")
    ids, mask = data["input_ids"], data["attention_mask"].bool()
    monkeypatch.setattr(model.text, "tokenizer", Tokens([row[real] for row, real in zip(ids, mask, strict=True)]))
    tokens, real = model.text(["one sentence", "another sentence"])
    assert torch.equal(real, mask)
    torch.testing.assert_close(tokens[real], data["text_memory"].transpose(0, 1)[real], **CLOSE)
    hidden = model.text.body(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    torch.testing.assert_close(hidden[real], data["last_hidden_state"][real], **CLOSE)


CASES = (
    "A_k5",
    "B_k2_batch",
    "B_k2_first_alone",
    "B_k2_second_alone",
    "C_k1",
    "D_k4_release_size",
    "E_one_frame_k4",
    "F_k2_first_alone",
    "F_k2_second_alone",
)


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_answer(model: TubeDETR, golden: Golden, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    data = golden.load(f"06_full_{case}")
    frames, mask, sizes, queries = show(model, golden, data, monkeypatch)
    clips, real = len(frames), real_frames(data["durations"])
    seen: dict[str, list[Tensor]] = {"encoder": [], "fast_encoder": [], "cross": [], "states": [], "visual": []}
    hooks = [
        model.encoder.register_forward_hook(lambda m, x, y: seen["encoder"].append(y)),
        model.visual.register_forward_hook(lambda m, x, y: seen["visual"].append(y)),
        model.fast_encoder.register_forward_hook(lambda m, x, y: seen["fast_encoder"].append(y)),
        model.decoder.register_forward_hook(lambda m, x, y: seen["states"].append(y.states)),
        *(
            layer.cross_attn.register_forward_hook(lambda m, x, y: seen["cross"].append(attention_to(m, x)))
            for layer in model.decoder.layers
        ),
    ]
    output = model(frames, mask, queries, sizes)
    for hook in hooks:
        hook.remove()
    assert len(seen["visual"]) == len({(int(length), *size) for length, size in zip(mask.sum(1), sizes, strict=True)})
    assert_same_answer(output, data)

    of_slow = real[:, :: model.stride]
    (encoder,), (fast,), (states,) = (seen[name] for name in ("encoder", "fast_encoder", "states"))
    assert output.fused is not None
    parts = {"encoder": (encoder, of_slow), "fast": (fast, real), "memory": (output.fused.tokens, real)}
    for name, (ours, there) in parts.items():
        torch.testing.assert_close(ours[..., ::32][there], batch_first(data[f"{name}_8"], clips)[there], **MEMORY)
    torch.testing.assert_close(states[..., ::32][:, real], data["states_8"][:, real], **CLOSE)
    if "states" in data:
        torch.testing.assert_close(states[:, real], data["states"][:, real], **CLOSE)
        torch.testing.assert_close(output.fused.tokens[real], batch_first(data["memory"], clips)[real], **MEMORY)
        torch.testing.assert_close(encoder[of_slow], batch_first(data["encoder_out"], clips)[of_slow], **MEMORY)
    attention = data["memory_attention"]
    torch.testing.assert_close(torch.stack(seen["cross"])[:, real], attention[:, real], **CLOSE)
    assert torch.equal(output.fused.mask.expand(-1, mask.shape[1], -1)[real], ~data["memory_mask"][real])
    features = torch.cat([maps[:, :, ::256].flatten(0, 1) for maps in seen["visual"]])
    torch.testing.assert_close(features, data["features_8"], **CLOSE)
    if clips == 1:
        (tube,) = sample_tubes(output, [Clip(data["frame_ids"])])
        assert [tube.start, tube.stop] == data["span"].tolist()
        torch.testing.assert_close(tube.boxes, data["boxes_360x640"], atol=0.02, rtol=0)


@torch.no_grad()
def test_clips_of_two_sizes_in_a_batch_are_as_if_alone(
    model: TubeDETR, golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the original's boxes move by up to 0.3: it pads pixels, and its frozen norms fill the padding."""
    data = golden.load("06_full_F_k2_padded_sizes")
    output = model(*show(model, golden, data, monkeypatch)[:2], ["one", "two"], [(64, 96), (96, 60)])
    for index, name in enumerate(("first", "second")):
        alone = golden.load(f"06_full_F_k2_{name}_alone")
        length = int(alone["durations"])
        torch.testing.assert_close(output.boxes[:, index, :length], alone["pred_boxes"][:, 0], **BOXES)
        torch.testing.assert_close(output.start_end[:, index, :length], alone["pred_start_end"][:, 0], **CLOSE)


@pytest.mark.parametrize("case", ["A_k5", "B_k2_batch"])
def test_training_step(model: TubeDETR, golden: Golden, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """Dropout off. All gradients, from pixels to heads."""
    data = golden.load(f"07_train_{case}")
    frames, mask, sizes, queries = show(model, golden, data, monkeypatch)
    frozen = model.visual.body.conv1, model.visual.body.layer1
    for module in frozen:
        module.requires_grad_(False)
    output = model(frames, mask, queries, sizes)
    assert_same_answer(output, data)
    true_boxes = torch.from_numpy(golden.inputs.boxes(int(data["box_seed"]), len(data["true_boxes"])))
    torch.testing.assert_close(true_boxes, data["true_boxes"])
    loss = model.objective()
    terms = official_terms(loss, output, true_batch(data["durations"], data["spans"], true_boxes))
    expected = golden.losses(f"07_train_{case}")
    for ours, official in TERMS.items():
        values = [*(expected[f"{official}_{layer}"] for layer in range(5)), expected[official]]
        assert terms[ours].tolist() == pytest.approx(values, rel=1e-5), ours
    total = torch.stack([loss.weights[name] * term.sum() for name, term in terms.items()]).sum()
    assert total.item() == pytest.approx(data["total"].item(), rel=1e-5)
    total.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    model.requires_grad_(True)
    whole = torch.stack([gradient.double().norm() for gradient in gradients.values() if gradient is not None]).norm()
    assert whole.item() == pytest.approx(data["grad_norm_total"].item(), rel=1e-3)
    recorded = json.loads((golden.folder / f"07_train_{case}_grads.json").read_text())
    assert_same_gradients(gradients, recorded)


def assert_same_gradients(gradients: dict[str, Tensor | None], recorded: dict[str, dict]) -> None:
    compared = 0
    for key, norm in recorded["grad_norm"].items():
        name = NAMES.translate_name(key)
        if name is None:
            assert norm is None, f"{key} has a gradient in the original, and no counterpart here"
            continue
        parts = [gradients[part] for part in packed(name)]
        if norm is None:
            assert all(part is None for part in parts), key
            continue
        known = [part for part in parts if part is not None]
        assert len(known) == len(parts), key
        ours = torch.cat(known).double().norm().item()
        relative = 2e-3 if name.startswith(("visual.", "text.")) else 1e-3
        if norm <= 1e-3:  # zero by construction, such as that of a key's bias
            assert ours < 2e-3, key
            continue
        assert ours == pytest.approx(norm, rel=relative), key
        compared += 1
        if (first := recorded["grad_first3"].get(key)) is not None:
            assert known[0].flatten()[: len(first)].tolist() == pytest.approx(
                first, rel=relative, abs=relative * norm
            ), key
    assert compared > 470


def packed(name: str) -> list[str]:
    """Our names of an official tensor, whose packed projections are three of ours."""
    stem, joined, kind = name.partition(".in_proj_")
    return [f"{stem}.{part}_proj.{kind}" for part in "qkv"] if joined else [name]


def test_the_whole_manifest_is_accounted_for(model: TubeDETR, golden: Golden) -> None:
    manifest = golden.manifest
    unused = sum(
        row["params"] for row in [{"params": manifest["sub_modules"]["transformer.text_encoder.pooler"]["params"]}]
    )
    built = sum(parameter.numel() for parameter in model.parameters())
    assert built + unused == manifest["total_params"] == 185_456_582
    own = set(model.state_dict())
    there = {part for key in golden.shapes if (name := NAMES.translate_name(key)) for part in packed(name)}
    assert own == there


@pytest.mark.parametrize("module", [nn.MultiheadAttention, nn.Conv1d])
def test_nothing_can_bypass_a_tuner(model: TubeDETR, module: type[nn.Module]) -> None:
    assert not any(isinstance(part, module) for part in model.modules())
