"""Means by quality, from batches and processes of any size."""

from __future__ import annotations

import pytest
import torch

from stvg_nst.metrics import QualityMeans


def test_every_clip_weighs_alike_whatever_its_batch() -> None:
    means = QualityMeans(("boxes", "giou"))
    means.update(
        {"boxes": torch.tensor([1.0, 2.0, 9.0]), "giou": torch.tensor([0.0, 1.0, 2.0])}, torch.tensor([0, 0, 1])
    )
    means.update({"boxes": torch.tensor([6.0]), "giou": torch.tensor([5.0])}, torch.tensor([0]))
    expected = {"HQ/boxes": 3.0, "HQ/giou": 2.0, "LQ/boxes": 9.0, "LQ/giou": 2.0}
    assert {name: value.item() for name, value in means.compute().items()} == expected
    means.reset()
    means.update({"boxes": torch.tensor([4.0]), "giou": torch.tensor([3.0])}, torch.tensor([1]))
    assert {name: value.item() for name, value in means.compute().items()} == {"LQ/boxes": 4.0, "LQ/giou": 3.0}


def test_a_value_that_is_none_spoils_its_own_quality_only() -> None:
    means = QualityMeans(("boxes",))
    means.update({"boxes": torch.tensor([1.0, torch.nan])}, torch.tensor([0, 1]))
    assert means.compute()["HQ/boxes"] == 1 and means.compute()["LQ/boxes"].isnan()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_without_a_clip_there_is_no_mean() -> None:
    assert QualityMeans(("boxes",)).compute() == {}
