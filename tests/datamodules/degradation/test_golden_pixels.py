from __future__ import annotations

import cv2
import numpy as np
import pytest

from datamodules.degradation import golden_pixels
from datamodules.degradation.golden_pixels import GOLDEN_HASHES, PixelOrigin, pixel_hashes
from datamodules.degradation.kinds import DEGRADATION_VERSION, DEGRADATIONS, UNSEEN, UNSEEN_VERSION
from stvg_nst.types import Degradation


def test_the_pixels_are_the_golden_ones_of_this_version() -> None:
    assert (DEGRADATION_VERSION, UNSEEN_VERSION) == ("D-1.0", "D-1.1"), "a new version needs new golden hashes"
    if "AVX2" not in cv2.getCPUFeaturesLine():
        pytest.skip("the golden hashes are those of processors with AVX2")
    assert pixel_hashes(unseen=True) == GOLDEN_HASHES
    assert pixel_hashes() == {kind: GOLDEN_HASHES[kind] for kind in DEGRADATIONS}


def test_pixels_are_golden_whichever_kinds_are_hashed() -> None:
    unseen = {kind: GOLDEN_HASHES[kind] for kind in UNSEEN}
    assert PixelOrigin("here", GOLDEN_HASHES).golden and PixelOrigin("here", unseen).golden
    assert not PixelOrigin("here", {**GOLDEN_HASHES, "noise": "other"}).golden


def test_one_grey_level_in_one_pixel_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    true = golden_pixels.degrade

    def altered(frames: np.ndarray, degradation: Degradation) -> np.ndarray:
        degraded = true(frames, degradation)
        degraded[0, 100, 50, 1] ^= degradation == Degradation("defocus", 4, 4)
        return degraded

    before = pixel_hashes()
    monkeypatch.setattr(golden_pixels, "degrade", altered)
    assert {kind for kind in DEGRADATIONS if pixel_hashes()[kind] != before[kind]} == {"defocus"}
