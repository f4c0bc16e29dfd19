"""MiniSTVG, the embedded benchmark, as a data module."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from datamodules.base import Split, STVGDataModule
from datamodules.ministvg import (
    ACTIONS,
    COLOURS,
    SHAPES,
    SIZES,
    VERSION,
    SceneAnnotation,
    ensure_split,
    load_annotations,
    understand,
)
from datamodules.quality import EvaluationConditions
from datamodules.records import Record
from stvg_nst.boxes import xyxy_to_cxcywh
from stvg_nst.types import ClipInfo, Kernels, SentenceType

TRAINING_CLIPS = {"pretrain": 3000, "tune": 400}
TARGET_WORDS = (*SHAPES, *COLOURS, *SIZES, *ACTIONS[1:])


class MiniSTVG(STVGDataModule):
    """Rendered clips with a declarative and an interrogative sentence each.

    Args:
        root: folder that holds, or will hold, the rendered clips.
        training_split: ``tune`` to adapt the shipped grounder, ``pretrain`` to train one.
        training_without: words for looks or actions, such as ``red``; clips whose target has one of them are not
            trained on, and ``training_items`` counts what is left.
        training_clips, val_clips, test_clips: the first so many clips of each split; the benchmark's own numbers unless
            given. A smaller number makes a quick run, whose results compare with no other.
    """

    renders_videos = True

    def __init__(
        self,
        root: Path = Path("data"),
        *,
        training_split: Literal["tune", "pretrain"] = "tune",
        training_without: Sequence[str] = (),
        training_clips: int | None = None,
        val_clips: int = 100,
        test_clips: int = 400,
        num_frames: int = 16,
        batch_size: int = 16,
        eval_batch_size: int = 32,
        num_workers: int = 2,
        benchmark_seed: int = 0,
        seed: int = 0,
        mixed: bool = True,
        variants: int | None = None,
        features: Path | None = None,
        frames: Path | None = None,
        kernels: Kernels = "relative",
        training_items: int | None = None,
        twins: bool = False,
        evaluation_split: Literal["val", "test"] = "test",
        evaluation_conditions: EvaluationConditions = "mixed",
    ) -> None:
        super().__init__(
            num_frames=num_frames,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            benchmark_seed=benchmark_seed,
            seed=seed,
            mixed=mixed,
            variants=variants,
            features=features,
            frames=frames,
            kernels=kernels,
            training_items=training_items,
            twins=twins,
            evaluation_split=evaluation_split,
            evaluation_conditions=evaluation_conditions,
        )
        self.root = Path(root)
        self.training_split = training_split
        self.training_without = frozenset(training_without)
        if unknown := sorted(self.training_without - set(TARGET_WORDS)):
            raise ValueError(
                f"training_without knows {', '.join(TARGET_WORDS)}, got {', '.join(unknown)}; "
                "correct --data.init_args.training_without"
            )
        self._scenes: dict[Split, dict[str, SceneAnnotation]] = {}

        self.num_clips: dict[Split, int] = {
            "train": training_clips or TRAINING_CLIPS[training_split],
            "val": val_clips,
            "test": test_clips,
        }

    def prepare_data(self) -> None:
        for split in self.num_clips:
            self._ensure(split)

    def _ensure(self, split: Split) -> Path:
        name = self.training_split if split == "train" else split
        return ensure_split(self.root, name, num_clips=self.num_clips[split])

    def load_records(self, split: Split) -> tuple[Record, ...]:
        records = []
        self._scenes[split] = {}
        for scene in load_annotations(self._ensure(split), num_clips=self.num_clips[split]):
            if split == "train" and self.training_without & target_words(scene):
                continue
            self._scenes[split][scene.clip_id] = scene
            queries: dict[SentenceType, str] = {
                "declarative": scene.declarative,
                "interrogative": scene.interrogative,
            }
            for sentence_type, query in queries.items():
                records.append(
                    Record(
                        item_id=f"{scene.clip_id}/{sentence_type}",
                        clip_id=scene.clip_id,
                        video=scene.file,
                        query=query,
                        sentence_type=sentence_type,
                        target=scene.target_tube(),
                        segment=(0, scene.num_frames),
                        num_frames=scene.num_frames,
                        fps=scene.fps,
                        size=scene.size,
                    )
                )
        return tuple(records)

    def matches(self, clips: Sequence[ClipInfo]) -> tuple[Tensor, Tensor]:
        """How far every actor of training clips is what the sentence says; only pretraining may know.

        Returns:
            boxes (B, A, T, 4), cxcywh in units of the frame, empty for actors that pad a clip, and whether shape,
            colour, size and action agree with the sentence on that frame, (B, A, T, 4) float; what it does not name
            agrees.
        """
        boxes, agreements = [], []
        for clip in clips:
            scene = self._scenes["train"][clip.item_id.split("/")[0]]
            meaning, ids = understand(clip.query), list(clip.frame_ids)
            height, width = scene.size
            unit = torch.tensor((width, height, width, height))
            boxes.append(torch.stack([xyxy_to_cxcywh(torch.from_numpy(a.boxes[ids])) / unit for a in scene.actors]))
            agreement = torch.ones(len(scene.actors), len(ids), 4)
            for row, actor in enumerate(scene.actors):
                for column, name in enumerate(("shape", "colour", "size")):
                    named = getattr(meaning, name)
                    agreement[row, :, column] = float(named is None or named == getattr(actor, name))
                actions = torch.from_numpy(actor.actions[ids])
                named_action = actions > 0 if meaning.action is None else actions == ACTIONS.index(meaning.action)
                agreement[row, :, 3] = named_action.float()
            agreements.append(agreement)
        pad = torch.nn.utils.rnn.pad_sequence
        return pad(boxes, batch_first=True), pad(agreements, batch_first=True)

    def provenance(self) -> dict[str, Any]:
        return {**self.shared_provenance(), "dataset": "MiniSTVG", "version": VERSION}


def target_words(scene: SceneAnnotation) -> frozenset[str]:
    """The target's shape, colour, size, and what it does in the event."""
    target = scene.actors[scene.target]
    return frozenset((target.shape, target.colour, target.size, ACTIONS[target.actions[scene.start]]))
