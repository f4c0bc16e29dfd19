from __future__ import annotations

import pytest
import torch

from stvg_nst.types import BackboneFeatures, Clip, ClipInfo, Quality, Tube


def test_features_of_another_number_of_frames_are_refused() -> None:
    """How many frames are shown is the annotation's to say: one that was corrected may say another number."""
    target = Tube(0, 1, torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    info = ClipInfo("i", "q", "declarative", Quality.HQ, None, (0, 4, 8), target, (9, 9), 9, 1.0, "v")
    boxes, inside = torch.zeros(3, 4), torch.zeros(3, dtype=torch.bool)
    for frames in (2, 4):
        maps = torch.zeros(1, frames, 5, 2, 2)
        features = BackboneFeatures(maps, maps, torch.ones(1, 2, 2, dtype=torch.bool))
        with pytest.raises(
            ValueError, match=f"clip 'i' has 3 sampled frames, but its cached features are of {frames}: its annot"
        ):
            Clip(info, None, features, boxes, inside)
