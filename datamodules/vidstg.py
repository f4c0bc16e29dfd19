"""VidSTG as a data module."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from datamodules.annotated import VidSTGSource
from datamodules.annotated.policies import Policy
from datamodules.annotated_videos import AnnotatedVideos, BadVideoPolicy
from datamodules.augmentation import Augmentation
from datamodules.base import Split
from datamodules.quality import EvaluationConditions
from datamodules.sampling import EvenFrames, FrameChoice
from datamodules.transforms import Resize
from stvg_nst.types import Kernels


class VidSTG(AnnotatedVideos):
    """Objects of 80 kinds in home videos: segments of untrimmed videos, declarative and interrogative sentences.

    Args:
        root: folder of the annotations and of the videos; docs/data.md shows it.
        validation: ``held_out`` validates on a part of the training set that is not trained on, as on the other data
            sets; ``official`` on the published validation set, and trains on all of the training set.
        held_out: share of the training set's videos that ``val`` gets.
        on_bad_video: ``refuse`` refuses bad videos and faulty annotations, ``skip`` leaves them out and counts them.
        on_bad_box: of boxes that have no area or leave the frame: ``refuse`` takes them for a fault, ``clip`` cuts them
            to the frame, ``as_published`` keeps them as they stand, ``skip_frame`` takes their frames from the target.
        on_short_clip: of clips that have fewer frames than their annotation speaks of, which are shown as far as they
            go: ``refuse`` takes them for a fault, ``clip`` and ``skip_frame`` end the target with the clip,
            ``as_published`` keeps it as it stands.
        manifest: what ``data verify`` wrote; ``null`` for the place where it writes.
        expect_official_counts: refuse annotation files with another number of sentences than published.
        num_frames: frames sampled of a segment, in training.
        eval_num_frames: and in validation and test.
        resolution: height of the frames that the network sees, in pixels; ``null`` for the native one.
        antialias: average over the pixels that fall away at that; the default is how the published models were trained.
        batch_size: clips of a training batch on each device.
        eval_batch_size: clips of a validation or test batch on each device.
        num_workers: loader processes; 0 loads in the main process.
        benchmark_seed: fixes the degradations of the evaluation; part of the benchmark, not of a run.
        seed: of the run: order, qualities and degradations of training.
        mixed: train on HQ and LQ clips 1 : 1; ``false`` trains on HQ clips only.
        variants: ``null`` degrades every training sample anew; K draws from K fixed variants a clip (for the cache).
        features: folder of a cache of frozen backbone features, or ``null``.
        frames: folder of a cache of decoded frames (``data cache``), or ``null`` to decode every time.
        degraded: folder of degraded videos (``data degrade``) that the evaluation shows as LQ clips; ``null`` to
            degrade on the fly.
        kernels: ``relative`` scales the degradations with the short side of the frames; ``absolute`` does not.
        training_items: train on the first so many records only; ``null`` for all.
        twins: hand over each degraded training clip in high quality too, for ``--model.twin``.
        evaluation_split: what the command ``test`` measures on; ``val`` where something is chosen by the numbers.
        evaluation_conditions: how that split shows each clip: ``mixed`` in HQ and in one drawn degradation, ``matrix``
            in HQ and in every kind at every severity, or a list such as ``[HQ, defocus, low_light:3]``.
        augmentation: cuts and mirrors of training clips, by chance; ``null`` for none.
    """

    def __init__(
        self,
        root: Path = Path("data/vidstg"),
        *,
        validation: Literal["held_out", "official"] = "held_out",
        held_out: float = 0.1,
        on_bad_video: BadVideoPolicy = "refuse",
        on_bad_box: Policy = "refuse",
        on_short_clip: Policy = "refuse",
        manifest: Path | None = None,
        expect_official_counts: bool = True,
        num_frames: int = 64,
        eval_num_frames: int = 64,
        resolution: int | None = 420,
        antialias: bool = False,
        batch_size: int = 2,
        eval_batch_size: int = 1,
        num_workers: int = 2,
        benchmark_seed: int = 0,
        seed: int = 0,
        mixed: bool = True,
        variants: int | None = None,
        features: Path | None = None,
        frames: Path | None = None,
        degraded: Path | None = None,
        kernels: Kernels = "relative",
        training_items: int | None = None,
        twins: bool = False,
        evaluation_split: Literal["val", "test"] = "test",
        evaluation_conditions: EvaluationConditions = "mixed",
        augmentation: Augmentation | None = None,
    ) -> None:
        if validation == "held_out" and not 0 < held_out < 1:
            raise ValueError(f"held_out must lie in (0, 1), got {held_out}; or set validation to official")
        super().__init__(
            VidSTGSource(root),
            held_out=held_out if validation == "held_out" else 0.0,
            on_bad_video=on_bad_video,
            on_bad_box=on_bad_box,
            on_short_clip=on_short_clip,
            manifest=manifest,
            expect_official_counts=expect_official_counts,
            resize=None if resolution is None else Resize(resolution, antialias),
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
            degraded=degraded,
            kernels=kernels,
            training_items=training_items,
            twins=twins,
            evaluation_split=evaluation_split,
            evaluation_conditions=evaluation_conditions,
            augmentation=augmentation,
        )
        self.num_frames_of: dict[Split, int] = {"train": num_frames, "val": eval_num_frames, "test": eval_num_frames}

    def frame_choice(self, split: Split) -> FrameChoice:
        return EvenFrames(self.num_frames_of[split])

    def provenance(self) -> dict[str, Any]:
        return {**super().provenance(), "num_frames": dict(self.num_frames_of)}
