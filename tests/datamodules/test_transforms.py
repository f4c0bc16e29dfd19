from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch

from datamodules.transforms import Resize, ShortSide, normalise, to_network


@pytest.mark.parametrize(
    ("native", "expected"), [((360, 640), (420, 588)), ((480, 640), (420, 560)), ((640, 360), (420, 236))]
)
def test_wide_frames_are_squeezed_and_others_keep_their_shape(
    native: tuple[int, int], expected: tuple[int, int]
) -> None:
    resize = Resize(420, antialias=True)
    assert resize.size(*native) == expected
    assert resize(torch.zeros(2, 3, native[0] // 10, native[1] // 10)).shape[-2] == 420


@pytest.mark.parametrize("antialias", [True, False])
def test_frames_are_resized_as_the_published_code_does(shared: Path, antialias: bool) -> None:
    golden = np.load(shared / "cgstvg" / "golden" / "15_resize.npz")
    mean, std = np.array([0.485, 0.456, 0.406])[:, None, None], np.array([0.229, 0.224, 0.225])[:, None, None]
    for case in range(4):
        ours = to_network(golden[f"{case}_in"][None], Resize(42, antialias))[0].numpy() * std + mean
        expected = golden[f"{case}_{'' if antialias else 'no'}antialias"]
        assert ours.shape == expected.shape
        np.testing.assert_allclose(ours, expected, atol=2e-6)


@pytest.mark.parametrize("antialias", [True, False])
def test_pieces_of_a_clip_come_out_as_the_whole(antialias: bool) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 24, 40, 3), dtype=np.uint8)
    resize = Resize(30, antialias)
    torch.testing.assert_close(to_network(frames, resize), resize(normalise(frames)), atol=2e-6, rtol=0)
    narrow = frames[:, :, :32]
    assert torch.equal(to_network(narrow, Resize(24, antialias)), normalise(narrow)), "what has the size already"
    assert torch.equal(to_network(frames, None), normalise(frames))


@pytest.mark.parametrize(
    ("native", "expected"),
    [((360, 640), (330, 586)), ((640, 360), (586, 330)), ((480, 640), (352, 469)), ((352, 400), (352, 400))],
)
def test_the_short_side_has_one_length_unless_the_frame_is_narrow(
    native: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert ShortSide(352).size(*native) == expected


def test_sizes_are_those_of_tubedetr(shared: Path) -> None:
    cases = json.loads((shared / "tubedetr" / "golden" / "13_sizes.json").read_text())["cases"]
    for case in cases:
        size = ShortSide(case["resolution"]).size(*case["source_hw"])
        assert list(size) == case["network_hw"]
        scales = np.array([*size[::-1], *size[::-1]]) / [*case["source_hw"][::-1], *case["source_hw"][::-1]]
        np.testing.assert_allclose(np.array([10, 20, 40, 60]) * scales, case["box_xyxy"], atol=1e-3)


@pytest.fixture(scope="module")
def rules(shared: Path) -> ModuleType:
    """The rules that make the inputs of TubeDETR's golden files."""
    spec = importlib.util.spec_from_file_location("golden_inputs", shared / "tubedetr" / "golden_inputs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("case", ["down", "up"])
def test_pixels_are_those_of_tubedetr(shared: Path, rules: ModuleType, case: str) -> None:
    golden = np.load(shared / "tubedetr" / "golden" / "13_pixels.npz")
    frames = rules.picture(int(golden[f"{case}_seed"]), *golden[f"{case}_source_shape"][:3])
    assert rules.crc32(frames) == golden[f"{case}_crc32"]
    resized = ShortSide(128)(frames)
    levels = 0 if cv2.__version__.startswith("5.0") else 1
    np.testing.assert_allclose(resized.astype(int), golden[f"{case}_uint8"].astype(int), atol=levels)
    shown = to_network(frames, ShortSide(128))[:, :, :4].transpose(0, 1).numpy()
    np.testing.assert_allclose(shown, golden[f"{case}_network_top"], atol=1e-6 + levels / 255 / 0.224)
