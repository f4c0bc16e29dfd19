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


@pytest.mark.parametrize("has_motion", [True, False])
def test_features_change_with_and_without_motion(has_motion: bool) -> None:
    maps = torch.arange(2 * 3 * 4 * 2 * 2.0).view(2, 3, 4, 2, 2)
    cells = torch.tensor([[[True, True], [True, True]], [[True, False], [True, False]]])
    features = BackboneFeatures(maps, maps + 1 if has_motion else None, cells)
    assert len(features.maps) == 1 + has_motion
    alone = features.unpadded(1, 2)
    assert torch.equal(alone.appearance, maps[1:, :2, :, :, :1]) and alone.cell_mask.shape == (1, 2, 1)
    back = features.replaced(torch.tensor([1]), alone.changed(lambda tensor: tensor + tensor))
    assert torch.equal(back.appearance[1, :2, :, :, 0], 2 * maps[1, :2, :, :, 0])
    assert torch.equal(back.appearance[0], maps[0]) and not back.appearance[1, 2:].any()
    moved = features.to("cpu", non_blocking=True)
    for each in (alone, back, moved, features.share_memory_()):
        assert (each.motion is not None) == has_motion
    if has_motion:
        assert torch.equal(alone.motion, alone.appearance + 1) and torch.equal(moved.motion, maps + 1)
