"""Checkpoints of other projects, from files with every name and shape of the real ones but next to no values."""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from transformers import RobertaConfig, RobertaForMaskedLM

from stvg_nst import __main__ as root
from stvg_nst.models import CGSTVG
from stvg_nst.models.blocks import image
from stvg_nst.models.cgstvg import ImageEncoder, TextEncoder, VideoEncoder, hub
from stvg_nst.models.cgstvg.checkpoint import load_mdetr, load_official, load_video_swin
from stvg_nst.models.cgstvg.official import ALIASES, NAMES
from stvg_nst.models.description import Viewing
from stvg_nst.models.foreign_checkpoint import LoadReport, load_roberta
from stvg_nst.models.official_names import UNUSED
from stvg_nst.models.weights import WeightsMismatchError
from stvg_nst.prediction import load

Shapes = dict[str, tuple[int, ...]]
MINI_TEXT = Path("stvg_nst/models/mini")


def canonical(key: str) -> str:
    return next((head + key.removeprefix(alias) for alias, head in ALIASES.items() if key.startswith(alias)), key)


def fake(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors of one number each, their index, plus thousandths that count the rows of packed projections.

    Expanded tensors are saved as the single number that they hold.
    """
    numbers: dict[str, Tensor] = {}
    for index, (key, shape) in enumerate(shapes.items()):
        value = torch.full((), float(index))
        if key.endswith(("in_proj_weight", "in_proj_bias")):
            value = (index + torch.arange(shape[0]) / 1024).view(-1, *[1] * (len(shape) - 1))
        numbers[key] = value.expand(shape)
    return {key: numbers[canonical(key)] for key in shapes}


def with_memory(model: CGSTVG) -> CGSTVG:
    """Values of no meaning; only pages that a load touches take memory."""
    return model.to_empty(device="cpu")


def assert_filled(model: CGSTVG, report: LoadReport, official: Mapping[str, Tensor]) -> None:
    """Each tensor that the report calls filled has the official value, given by the official name."""
    expected = {
        name: part for key, value in official.items() for name, part in NAMES.translate_tensor(key, value).items()
    }
    own = model.state_dict()
    assert report.filled.keys() == expected.keys()
    assert all(torch.equal(own[name], value) for name, value in expected.items())
    assert set(report.filled) | set(report.missing) == set(own)


# --- the full-size configuration ----------------------------------------------------------------------------------


def test_full_size_is_the_official_model_without_its_unused_parts(
    full_size: CGSTVG, cgstvg: Path, shapes: Shapes
) -> None:
    with torch.device("meta"):
        official = {key: torch.empty(shape) for key, shape in shapes.items()}
    expected = {
        name: part.shape for key, value in official.items() for name, part in NAMES.translate_tensor(key, value).items()
    }
    own = {name: value.shape for name, value in full_size.state_dict().items() if not name.endswith("position_index")}
    assert own == expected

    manifest = json.loads((cgstvg / "state_dict_manifest.json").read_text())
    unused = sum(
        math.prod(row["shape"])
        for row in manifest["keys"]
        if row["kind"] == "parameter" and NAMES.ignored_reason(row["key"]) == UNUSED
    )
    built = sum(parameter.numel() for parameter in full_size.parameters())
    # The whole count, shared heads once, is that of the official model; 10,130,436 of it never see a forward pass.
    assert (built, unused, built + unused) == (228_637_371, 10_130_436, manifest["total_params_unique"])
    assert built + unused == 238_767_807


def test_frozen_norms_are_no_parameters_and_part_of_the_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"name": "resnet18", "model_args": {"channels": [8, 8, 8, 8]}}
    frozen, free = ImageEncoder(**options, frozen_norm=True), ImageEncoder(**options)
    assert not any(".bn" in name for name, _ in frozen.named_parameters())
    weights = {k: v for k, v in free.state_dict().items() if not k.endswith("num_batches_tracked")}
    generator = torch.Generator().manual_seed(0)
    for name, value in weights.items():
        if "running_var" in name or name.endswith("bn1.weight"):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif "running_mean" in name or name.endswith("bn1.bias"):
            value.copy_(torch.randn(value.shape, generator=generator))
    frozen.load_state_dict(weights)
    frames = torch.randn(1, 2, 3, 64, 64, generator=generator)
    monkeypatch.setattr(image, "_PIECE", 64 * 64)
    with torch.no_grad():
        torch.testing.assert_close(frozen.train()(frames), free.eval()(frames))
    twin = copy.deepcopy(frozen)
    for encoder in (frozen, twin, free):
        encoder(frames).square().sum().backward()
    ours, copied, theirs = (encoder.body.layer1[0].conv1.weight.grad for encoder in (frozen, twin, free))
    torch.testing.assert_close(ours, theirs)
    assert torch.equal(copied, ours)


def test_a_text_encoder_that_cannot_be_had_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match=r"in 'no-such/model': .* run once with a network, or .*source FOLDER"):
        TextEncoder("no-such/model", 32)
    with pytest.raises(OSError, match=r"no weights of a RoBERTa in 'no-such/model'"):
        load_roberta("no-such/model", None)  # type: ignore[arg-type]


# --- the official checkpoint --------------------------------------------------------------------------------------


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def write(content: Any, **options: Any) -> Path:
        torch.save(content, tmp_path / "checkpoint.pth", **options)
        return tmp_path / "checkpoint.pth"

    return write


def test_an_official_checkpoint_fills_the_whole_model_from_its_average(
    full_size: CGSTVG, shapes: Shapes, save: Callable[..., Path]
) -> None:
    average = fake(shapes)
    last = {key: torch.full((), -1.0).expand(shape) for key, shape in shapes.items()}
    path = save({"model": last, "model_ema": average, "optimizer": {"state": {}}, "iteration": 7})
    assert path.stat().st_size < 2**22
    model = with_memory(full_size)
    report = load_official(path, model)
    assert_filled(model, report, average)
    assert all(name.endswith(".relative_position_index") for name in report.missing) and len(report.missing) == 12
    assert len(report.ignored) == 164 and report.ignored["ground_encoder.fusion.weight"] == UNUSED
    assert report.renamed["encoder.layers.5.self_attn.k_proj.bias"].endswith("layers.5.self_attn.in_proj_bias")
    assert report.matched == ()
    summary = str(report)
    assert f"'{path}' (model_ema): {len(report.filled)} tensors filled" in summary
    assert "12 of 'constants (follows from the configuration)' not in the file" in summary


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_proj.bias": None}, "1 of 1540 keys differ, the first are\n  missing: visual_proj.bias"),
        ({"input_proj3.bias": (7,)}, "unexpected: input_proj3.bias"),
        ({"input_proj.bias": (7,)}, r"shape of visual_proj.bias: expected \(256,\), got \(7,\)"),
        ({"action_embed.layers.1.bias": (1,)}, "shared head 'action_embed.layers.1.bias' a second time"),
    ],
)
def test_an_official_checkpoint_that_does_not_fit_is_refused(
    full_size: CGSTVG,
    shapes: Shapes,
    save: Callable[..., Path],
    change: dict[str, tuple[int, ...] | None],
    message: str,
) -> None:
    tensors = fake(shapes)
    for key, shape in change.items():
        tensors.pop(key, None)
        if shape is not None:
            tensors[key] = torch.full(shape, 0.5)
    with pytest.raises(WeightsMismatchError, match=r"checkpoint.pth' \(model\)") as refused:
        load_official(save({"model": tensors, "model_ema": None}), full_size)
    assert refused.match(message)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, save: Callable[..., Path]) -> None:
    model: Any = None  # none of these gets as far as the model
    with pytest.raises(WeightsMismatchError, match=r"no checkpoint in '.*none.pth'; docs/weights.md says where"):
        load_official(tmp_path / "none.pth", model)
    with pytest.raises(WeightsMismatchError, match=r"must hold 'model_ema' or 'model', got dict with the keys \['a'\]"):
        load_official(save({"a": 1}), model)
    with pytest.raises(WeightsMismatchError, match="holds more than tensors"):
        load_official(save({"model": {}, "args": Path("x")}), model)
    path = save({"model": {"a": torch.zeros(1000)}})
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(WeightsMismatchError, match="is damaged"):
        load_official(path, model)
    path.write_text("<html>not found</html>")
    with pytest.raises(WeightsMismatchError, match="is damaged"):
        load_official(path, model)


# --- what the official training starts from -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def maps(cgstvg: Path) -> dict[str, Any]:
    return json.loads((cgstvg / "pretrained_key_maps.json").read_text())


def test_initial_weights_fill_what_they_fill_in_the_original(
    full_size: CGSTVG, shapes: Shapes, maps: dict[str, Any], save: Callable[..., Path]
) -> None:
    sources = {theirs: shapes[official] for official, theirs in maps["mdetr"].items()}
    mdetr = fake({**sources, **dict.fromkeys(maps["mdetr_keys_unused"], (1,))})
    arguments = argparse.Namespace(lr=1e-4, device="cuda")
    model = with_memory(full_size)
    report = load_mdetr(save({"model_ema": mdetr, "model": {}, "args": arguments, "epoch": 39}), model)
    assert_filled(model, report, {official: mdetr[theirs] for official, theirs in maps["mdetr"].items()})
    assert set(maps["mdetr_keys_unused"]) <= set(report.ignored)
    from_mdetr = set(report.filled)

    sources = {theirs: shapes[official] for official, theirs in maps["vidswin"].items()}
    kernel = "backbone.patch_embed.proj.weight"
    swin = fake({**sources, kernel: (96, 3, 2, 4, 4), "backbone.norm.weight": (768,), "cls_head.fc_cls.bias": (400,)})
    # The released file may be from before PyTorch 1.6, whose format cannot be mapped.
    report = load_video_swin(save({"meta": {}, "state_dict": swin}, _use_new_zipfile_serialization=False), model)
    single = {**swin, kernel: 2 * swin[kernel][:, :, :1]}
    assert_filled(model, report, {official: single[theirs] for official, theirs in maps["vidswin"].items()})
    assert report.ignored["cls_head.fc_cls.bias"] == report.ignored["backbone.norm.weight"]

    scratch = {name for key in maps["not_initialised_from_any_checkpoint"] if (name := NAMES.translate_name(key))}
    left = {name for name in report.missing if name not in from_mdetr and not name.endswith("position_index")}
    assert left == {n for key in scratch for n in split_name(key)}


def split_name(name: str) -> list[str]:
    stem, packed, kind = name.partition(".in_proj_")
    return [f"{stem}.{part}_proj.{kind}" for part in "qkv"] if packed else [name]


@pytest.mark.parametrize("load", [load_mdetr, load_video_swin])
def test_initial_weights_of_something_else_are_refused(
    full_size: CGSTVG, save: Callable[..., Path], load: Callable[[Path, CGSTVG], LoadReport]
) -> None:
    part = "model" if load is load_mdetr else "state_dict"
    with pytest.raises(WeightsMismatchError, match=r"keys differ, the first are\n  missing: (visual|motion)"):
        load(save({part: {"backbone.conv.weight": torch.zeros(1)}}), full_size)
    with pytest.raises(WeightsMismatchError, match=rf"must hold .*'{part}', got dict with the keys \['weights'\]"):
        load(save({"weights": {}}), full_size)


# --- a model small enough to write ----------------------------------------------------------------------------------

SMALL = {
    "visual": {"name": "resnet18", "stage": 4, "model_args": {"channels": [8, 8, 8, 8]}, "frozen_norm": True},
    "motion": {"patch": 4, "width": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window": [8, 7, 7]},
    "text": {"source": str(MINI_TEXT), "width": 32},
}
LAYERS = {"num_heads": 4, "hidden": 64, "encoder_depth": 2, "decoder_depth": 2}


@pytest.fixture
def small() -> CGSTVG:
    torch.manual_seed(0)
    parts = ImageEncoder(**SMALL["visual"]), VideoEncoder(**SMALL["motion"]), TextEncoder(**SMALL["text"])
    return CGSTVG(*parts, **LAYERS)


@pytest.fixture
def small_config(tmp_path: Path) -> Path:
    package = "stvg_nst.models.cgstvg"
    classes = {"visual": "ImageEncoder", "motion": "VideoEncoder", "text": "TextEncoder"}
    parts = {name: {"class_path": f"{package}.{kind}", "init_args": SMALL[name]} for name, kind in classes.items()}
    grounder = {"class_path": "stvg_nst.models.CGSTVG", "init_args": {**parts, **LAYERS}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({"model": {"grounder": grounder}}))
    return tmp_path / "small.yaml"


def as_official(model: CGSTVG, names: Shapes) -> dict[str, Tensor]:
    """The weights of a small model as the official code would save them."""
    own, official = model.state_dict(), {}
    for key in names:
        name = NAMES.translate_name(canonical(key))
        pieces = [own[piece] for piece in split_name(name) if piece in own] if name else []
        if pieces:
            value = torch.cat(pieces)
            official[key] = value[..., None, None] if key in ("input_proj.weight", "input_proj2.weight") else value
    return official


def stvg(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["stvg_nst", *arguments])
    return root.main()


def test_convert_writes_our_format_once(
    small: CGSTVG,
    small_config: Path,
    shapes: Shapes,
    save: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = save({"model": as_official(small, shapes), "iteration": 1})
    target = small_config.with_name("ours.safetensors")
    command = ("convert", str(source), str(target), f"--config={small_config}")
    assert stvg(monkeypatch, *command) == 0
    out = capsys.readouterr().out
    assert "(model): " in out and f"written to '{target}'" in out
    own, written = small.state_dict(), load_file(target)
    assert written.keys() == own.keys() and all(torch.equal(written[name], own[name]) for name in own)

    target.write_text("kept")
    assert stvg(monkeypatch, *command) == 1
    assert f"'{target}' exists already" in capsys.readouterr().err and target.read_text() == "kept"
    assert stvg(monkeypatch, *command, "--overwrite") == 0
    assert load_file(target).keys() == own.keys()


def test_convert_fetches_a_release_by_its_name(
    small: CGSTVG,
    small_config: Path,
    shapes: Shapes,
    save: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, target = save({"model": as_official(small, shapes)}), small_config.with_name("ours.safetensors")
    command = ("convert", "hcstvg2", str(target), f"--config={small_config}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert stvg(monkeypatch, *command) == 1
    told = capsys.readouterr().err
    assert "no 'hcstvg2.pth' of Gstar666/CGSTVG in the cache" in told and "run once with a network" in told

    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(hub, "hf_hub_download", lambda *names: asked.append(names) or str(source))
    assert stvg(monkeypatch, *command) == 0 and target.is_file()
    assert asked == [("Gstar666/CGSTVG", "hcstvg2.pth")]


def test_a_conversion_over_a_data_set_is_one_to_predict_with(
    small: CGSTVG, small_config: Path, shapes: Shapes, save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = save({"model": as_official(small, shapes)}), small_config.with_name("ours.safetensors")
    overlays = [f"--config={small_config}", "--config=experiments/data/vidstg.yaml"]
    options = ["--model.inference=two_pass", "--data.init_args.eval_num_frames=128"]
    assert stvg(monkeypatch, "convert", str(source), str(target), *overlays, *options) == 0
    grounder = load(target, device="cpu")
    assert grounder.viewing == Viewing(128, None, 420, False, "two_pass", 90.0)
    assert all(
        torch.equal(a, b) for a, b in zip(grounder.frozen.grounder.parameters(), small.parameters(), strict=True)
    )


def test_a_failed_conversion_leaves_nothing_behind(
    small_config: Path, save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = save({"model": {"a": torch.zeros(1)}}), small_config.with_name("ours.safetensors")
    before = sorted(small_config.parent.iterdir())
    assert stvg(monkeypatch, "convert", str(source), str(target), f"--config={small_config}") == 1
    assert "does not fit CGSTVG" in capsys.readouterr().err
    assert sorted(small_config.parent.iterdir()) == before


def test_initialise_takes_roberta_from_a_folder(
    small: CGSTVG, small_config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, target = small_config.with_name("roberta"), small_config.with_name("start.safetensors")
    roberta = RobertaForMaskedLM(RobertaConfig.from_pretrained(MINI_TEXT))
    roberta.save_pretrained(folder)
    capsys.readouterr()
    assert stvg(monkeypatch, "initialise", str(target), f"--config={small_config}", f"--roberta={folder}") == 0
    out = capsys.readouterr().out
    assert (
        "RoBERTa's heads for its own training" in out and "of 'box_decoder' not in the file, left as they were" in out
    )
    written = load_file(target)
    for name, value in roberta.roberta.state_dict().items():
        assert torch.equal(written[f"text.body.{name}"], value)
    others = {name: value for name, value in small.state_dict().items() if not name.startswith("text.body.")}
    assert all(torch.equal(written[name], value) for name, value in others.items()), "what the seed 0 gives"
    assert stvg(monkeypatch, "initialise", str(target.with_name("x")), f"--config={small_config}") == 1
    assert "give at least one of --roberta, --video-swin and --mdetr" in capsys.readouterr().err
