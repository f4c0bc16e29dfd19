"""MiniSTVG, the embedded benchmark, as a data module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from datamodules.base import STVGDataModule
from datamodules.ministvg import (
    ACTIONS,
    COLOURS,
    FPS,
    FRAME_SIZE,
    NUM_FRAMES,
    SHAPES,
    SIZES,
    VERSION,
    SceneAnnotation,
    ensure_split,
    load_annotations,
    understand,
)
from datamodules.ministvg.confirmation import require_committed
from datamodules.records import Record
from datamodules.sampling import EvenFrames, FrameChoice
from datamodules.splits import Split
from datamodules.transforms import Resize
from stvg_nst.boxes import xyxy_to_cxcywh
from stvg_nst.types import ClipInfo, SentenceType

TRAINING_CLIPS = {"pretrain": 3000, "tune": 400}
CONFIRMATION_CLIPS = 400
TARGET_WORDS = (*SHAPES, *COLOURS, *SIZES, *ACTIONS[1:])


@dataclass(eq=False)
class MiniSTVG(STVGDataModule):
    """Rendered clips with a declarative and an interrogative sentence each."""

    renders_videos = True
    splits = ("train", "val", "test", "confirm")

    root: Path = Path("data")
    """folder that holds, or will hold, the rendered clips."""

    _: KW_ONLY

    training_split: Literal["tune", "pretrain"] = "tune"
    """``tune`` to adapt the shipped grounder, ``pretrain`` to train one."""

    training_without: Sequence[str] = ()
    """words for looks or actions, such as ``red``; clips whose target has one of them are not trained on, and
    ``training_items`` counts what is left."""

    training_clips: int | None = None
    """train on the first so many clips; all of the split unless given."""

    val_clips: int = 100
    """validate on the first so many clips."""

    test_clips: int = 400
    """test on the first so many clips. A smaller number makes a quick run, whose results compare with no other."""

    confirmation: Path | None = None
    """the committed study whose configurations may read the split ``confirm``; docs/confirmation.md says why."""

    num_frames: int = 16
    """frames sampled of each clip."""

    batch_size: int = 16
    eval_batch_size: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("num_frames", "val_clips", "test_clips"):
            self.require_at_least(option, 1)
        if self.training_clips is not None:
            self.require_at_least("training_clips", 1)
        self.root = Path(self.root)
        if unknown := sorted(set(self.training_without) - set(TARGET_WORDS)):
            raise ValueError(
                f"training_without knows {', '.join(TARGET_WORDS)}, got {', '.join(unknown)}; "
                "correct --data.init_args.training_without"
            )
        self._scenes: dict[Split, dict[str, SceneAnnotation]] = {}
        self.num_clips: dict[Split, int] = {
            "train": self.training_clips or TRAINING_CLIPS[self.training_split],
            "val": self.val_clips,
            "test": self.test_clips,
            "confirm": CONFIRMATION_CLIPS,
        }

    def prepare_data(self) -> None:
        for split in self.num_clips:
            if split != "confirm" or self.evaluation_split == "confirm":
                self._ensure(split)
        if self.extra_clips:
            self._ensure_all_of_training()

    def _ensure(self, split: Split) -> Path:
        if split == "confirm":
            require_committed(self.confirmation)
        name = self.training_split if split == "train" else split
        return ensure_split(self.root, name, num_clips=self.num_clips[split])

    def _ensure_all_of_training(self) -> Path:
        return ensure_split(self.root, self.training_split, num_clips=TRAINING_CLIPS[self.training_split])

    def load_records(self, split: Split) -> tuple[Record, ...]:
        scenes = load_annotations(self._ensure(split), num_clips=self.num_clips[split])
        if split == "train":
            scenes = self._wanted(scenes)
        self._scenes[split] = {scene.clip_id: scene for scene in scenes}
        return tuple(record for scene in scenes for record in records_of(scene))

    def spare_records(self) -> tuple[Record, ...]:
        scenes = load_annotations(self._ensure_all_of_training())[self.num_clips["train"] :]
        return tuple(record for scene in self._wanted(scenes) for record in records_of(scene))

    def _wanted(self, scenes: Sequence[SceneAnnotation]) -> tuple[SceneAnnotation, ...]:
        return tuple(scene for scene in scenes if target_words(scene).isdisjoint(self.training_without))

    def frame_choice(self, split: Split) -> FrameChoice:
        return EvenFrames(self.num_frames)

    @property
    def clip_seconds(self) -> float:
        return NUM_FRAMES / FPS

    def resize(self) -> Resize:
        """Leaves its own clips as they are, and brings any other video to their height."""
        return Resize(FRAME_SIZE[0], antialias=True)

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
        return {**self.shared_provenance(num_frames=self.num_frames), "dataset": "MiniSTVG", "version": VERSION}


def records_of(scene: SceneAnnotation) -> tuple[Record, ...]:
    """Both sentences of a clip."""
    queries: dict[SentenceType, str] = {"declarative": scene.declarative, "interrogative": scene.interrogative}
    return tuple(
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
        for sentence_type, query in queries.items()
    )


def target_words(scene: SceneAnnotation) -> frozenset[str]:
    """The target's shape, colour, size, and what it does in the event."""
    target = scene.actors[scene.target]
    return frozenset((target.shape, target.colour, target.size, ACTIONS[target.actions[scene.start]]))
