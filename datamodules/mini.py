"""MiniSTVG, the embedded benchmark, as a data module."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from datamodules.base import Split, STVGDataModule
from datamodules.ministvg import VERSION, ensure_split, load_annotations
from datamodules.records import Record
from stvg_nst.types import SentenceType

TRAINING_CLIPS = {"pretrain": 3000, "tune": 600}


class MiniSTVG(STVGDataModule):
    """Rendered clips with a declarative and an interrogative sentence each.

    Args:
        root: folder that holds, or will hold, the rendered clips.
        training_split: ``tune`` to adapt the shipped grounder, ``pretrain`` to train one.
        training_clips, val_clips, test_clips: the first so many clips of each split; the benchmark's own numbers unless
            given. A smaller number makes a quick run, whose results compare with no other.
    """

    def __init__(
        self,
        root: Path = Path("data"),
        *,
        training_split: Literal["tune", "pretrain"] = "tune",
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
        training_items: int | None = None,
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
            training_items=training_items,
        )
        self.root = Path(root)
        self.training_split = training_split

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
        for scene in load_annotations(self._ensure(split), num_clips=self.num_clips[split]):
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
                        num_frames=scene.num_frames,
                        fps=scene.fps,
                        size=scene.size,
                    )
                )
        return tuple(records)

    def provenance(self) -> dict[str, Any]:
        return {**self.shared_provenance(), "dataset": "MiniSTVG", "version": VERSION}
