from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from datamodules import MiniSTVG
from stvg_nst.models.cgstvg import VideoEncoder
from stvg_nst.pretraining import (
    DensePretraining,
    GroundingPretraining,
    _Grid,
    cell_targets,
    gaze_loss,
    look_at_neighbours_in_time,
)
from stvg_nst.tuning import FullFineTuning
from stvg_nst.types import BackboneFeatures, Batch, SceneBatch
from tests.stvg_nst.models.small import GROUNDERS


def test_a_cell_belongs_to_the_actor_over_its_centre_and_to_the_nearer_of_two() -> None:
    boxes = torch.tensor([[0.25, 0.25, 0.5, 0.5], [0.5, 0.5, 0.6, 0.6], [0.0, 0.0, 0.0, 0.0]])[None, :, None]
    cells = cell_targets(boxes, (4, 4))
    assert cells[0, 0].tolist() == [[0, 0, -1, -1], [0, 0, 1, -1], [-1, 1, 1, -1], [-1, -1, -1, -1]]


def test_heads_of_the_video_encoder_start_at_their_own_offset_in_time() -> None:
    encoder = VideoEncoder(patch=8, width=12, depths=(2,), num_heads=(3,), window=(4, 2, 2))
    look_at_neighbours_in_time(encoder)
    table = encoder.features[0][0].attn.relative_position_bias_table.view(7, 3, 3, 3)
    for head, offset in enumerate((0, -1, 1)):
        assert table[..., head].argmax() == torch.tensor([3 + offset, 1, 1]) @ torch.tensor([9, 3, 1])


def test_only_the_target_agrees_with_the_whole_sentence_and_only_during_the_event(tmp_path: Path) -> None:
    data = MiniSTVG(tmp_path, training_split="pretrain", training_clips=6, mixed=False, num_workers=0, batch_size=2)
    data.setup_split("train")
    data.caches["train"] = None
    for batch in data.train_dataloader():
        boxes, agreements = data.matches(batch.clips)
        answer = agreements.amin(-1).bool()  # (B, A, T)
        assert torch.equal(answer.any(1), batch.inside)
        found = (boxes * answer[..., None]).sum(1)
        torch.testing.assert_close(found, batch.boxes, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kinds", [1, 2])
def test_cells_and_words_are_found_where_the_memory_has_them(kinds: int) -> None:
    maps = torch.zeros(1, 2, 3, 2, 3)
    features = BackboneFeatures(maps, maps if kinds == 2 else None, torch.ones(1, 2, 3, dtype=torch.bool))
    batch = SimpleNamespace(features=features)
    grid = _Grid.of(batch)  # type: ignore[arg-type]
    tokens = torch.arange(6 * kinds + 4.0).expand(1, 2, -1)[..., None]
    assert grid.visual(tokens)[:, 0, 0, :, 0].tolist() == [[*range(6)], [*range(10, 16)]][:kinds]
    assert grid.words(tokens[:, 0])[0, :, 0].tolist() == [6, 7, 8, 9]


def test_a_query_should_look_at_the_target_with_every_head_in_frames_that_have_one() -> None:
    key = torch.eye(4)[None, None].expand(1, 2, -1, -1)
    target = torch.tensor([[[False, True, False, False], [False] * 4]])
    mask = torch.tensor([[[True, True, True, False]]])
    loss = partial(gaze_loss, key=key, target=target, num_heads=2, mask=mask)
    assert loss(torch.zeros(1, 2, 4)).item() == pytest.approx(math.log(3))
    # The first head has two of four features, among them that of the target's key; the second cannot tell it.
    assert loss(torch.tensor([[[0.0, 99.0, 0.0, 0.0]]]).expand(1, 2, 4)).item() == pytest.approx(math.log(3) / 2)
    assert loss(torch.zeros(1, 2, 4), target=torch.zeros_like(target)).item() == 0
    query = torch.zeros(1, 2, 4, requires_grad=True)
    loss(query).backward()
    assert query.grad is not None and query.grad[0, 0].any() and not query.grad[0, 1].any(), "no target, no pull"


def test_heads_of_the_encoder_are_told_of_the_frames_that_it_sees() -> None:
    grounder = GROUNDERS["TubeDETR"]()
    grounder.stride = 5
    module = GroundingPretraining(grounder, FullFineTuning(("encoder",)), weights="random")
    module.configure_model()
    module.log = lambda *arguments, **options: None  # type: ignore[method-assign]
    module._fused = SimpleNamespace(mask=torch.ones(1, 1, 6, dtype=torch.bool))  # type: ignore[assignment]
    # An actor fills the 7 frames, and is of the named looks in those that the encoder sees, the first and the sixth.
    agreements = torch.zeros(1, 1, 7, 4).index_fill(2, torch.tensor([0, 5]), 1.0)
    data = SimpleNamespace(matches=lambda clips: (torch.tensor([0.5, 0.5, 1.0, 1.0]).expand(1, 1, 7, -1), agreements))
    module._trainer = SimpleNamespace(datamodule=data)
    maps = torch.zeros(1, 7, 24, 2, 2)
    features = BackboneFeatures(maps, None, torch.ones(1, 2, 2, dtype=torch.bool))
    batch = Batch(
        clips=(None,),  # type: ignore[arg-type]
        frames=None,
        features=features,
        frame_mask=torch.ones(1, 7, dtype=torch.bool),
        frame_sizes=(),
        boxes=torch.zeros(1, 7, 4),
        inside=torch.zeros(1, 7, dtype=torch.bool),
        qualities=torch.zeros(1, dtype=torch.int64),
    )
    slow, memory, texts = torch.zeros(1, 2, 6, 32), torch.zeros(1, 7, 6, 32), torch.ones(1, 2, dtype=torch.bool)
    seen = {"tokens": memory, "query": slow, "key": slow, "reference": SimpleNamespace(text_mask=texts)}
    for index in range(len(grounder.decoder.layers)):
        seen |= {f"gaze_query{index}": memory[:, :, 0], f"gaze_key{index}": memory}
    module._dense_loss(seen, batch).backward()
    assert module.attention_bias.grad is not None
    # The logits are those of two words alike. Of d/dz of the cross-entropy, all of them are short of 1.
    short = 1 - torch.tensor(2.0).log().sigmoid().item()
    expected = torch.full((4,), -short * module.ATTENTION_WEIGHT / 4)
    torch.testing.assert_close(module.attention_bias.grad, expected)


@pytest.mark.parametrize("name", GROUNDERS)
def test_each_encoder_that_a_miniature_has_is_taught(name: str) -> None:
    module = DensePretraining(GROUNDERS[name](), looks={"shape": 5, "size": 2}, actions=9)
    generator = torch.Generator().manual_seed(0)
    scenes = SceneBatch(
        frames=torch.randn(2, 5, 3, 64, 64, generator=generator),
        boxes=torch.rand(2, 3, 5, 4, generator=generator) / 2 + 0.25,
        looks=torch.ones(2, 3, 2, dtype=torch.int64),
        actions=torch.ones(2, 3, 5, dtype=torch.int64),
    )
    terms = module._losses(scenes)
    appearance = ["presence", "shape", "size", "box"]
    assert [*terms] == (["motion_presence", "action", "change"] if name == "CGSTVG" else []) + appearance
    torch.stack([*terms.values()]).sum().backward()
    for encoder in module.grounder.backbones():
        assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
