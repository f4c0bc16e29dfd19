from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.transforms import Resize, normalise, to_network


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
        ours = Resize(42, antialias)(normalise(golden[f"{case}_in"][None]))[0].numpy() * std + mean
        expected = golden[f"{case}_{'' if antialias else 'no'}antialias"]
        assert ours.shape == expected.shape
        np.testing.assert_allclose(ours, expected, atol=2e-6)


@pytest.mark.parametrize("antialias", [True, False])
def test_pieces_of_a_clip_come_out_as_the_whole(antialias: bool) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 24, 40, 3), dtype=np.uint8)
    resize = Resize(30, antialias)
    assert torch.equal(to_network(frames, resize), resize(normalise(frames)))
    assert torch.equal(to_network(frames, None), normalise(frames))
