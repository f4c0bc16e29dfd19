"""Which clips a split of a data set has, in which conditions they are shown, and what that is called."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal

import lightning

from datamodules.degradation.files import DegradedFiles
from datamodules.degradation.kinds import DegradationKind, version_name
from datamodules.quality import (
    EvaluationConditions,
    MixedQualityPlan,
    conditions_name,
    expand_conditions,
    shows_unseen,
)
from datamodules.records import Record
from datamodules.sampling import FrameChoice
from stvg_nst.results.conditions import Conditions
from stvg_nst.seeding import derive_seed
from stvg_nst.types import Kernels

Split = Literal["train", "val", "test", "confirm"]
ValidationHalf = Literal["search", "ablate"]


@dataclass(eq=False)  # a data module equals itself alone, and can be a key
class SplitsOfClips(lightning.LightningDataModule, ABC):
    """The lowest part of a data module: the records of each split, and the plan of their qualities."""

    splits: ClassVar[tuple[Split, ...]] = ("train", "val", "test")
    """What the data set has."""

    _: KW_ONLY

    mixed: bool = True
    """train on HQ and LQ clips 1 : 1; ``false`` trains on HQ clips only, as a grounder is pretrained."""

    variants: int | None = None
    """``null`` degrades every training sample anew; K draws from K fixed variants a clip (for the cache)."""

    left_out_kinds: Sequence[DegradationKind] = ()
    """kinds of degradation that training never draws, such as ``[low_light]``, to test on what was not trained on."""

    kernels: Kernels = "relative"
    """``relative`` scales the degradations with the short side of the frames; ``absolute`` does not."""

    benchmark_seed: int = 0
    """fixes the degradations of the evaluation; part of the benchmark, not of a run."""

    training_items: int | None = None
    """train on the first so many records only; ``null`` for all."""

    extra_clips: int = 0
    """clips of the training split beyond those trained on that come with each training sample, half of them degraded.
    Of them the quality alone is known; they teach a tuner's router, ``--model.tuner.init_args.router_reads
    statistics``. With cached features they cost next to nothing, else a pass of the visual encoders each."""

    evaluation_split: Literal["val", "test", "confirm"] = "test"
    """what the command ``test`` measures on; ``val`` where something is chosen by the numbers; ``confirm``, of MiniSTVG
    alone, once, for what was fixed beforehand."""

    validation_half: ValidationHalf | None = None
    """show one half of ``val`` only: ``search``, by which something is chosen, or ``ablate``, on which variants of what
    was chosen are compared; ``null`` shows all of it. A gate's threshold is set by ``search`` in both cases."""

    evaluation_conditions: EvaluationConditions = "mixed"
    """how that split shows each clip: ``mixed`` in HQ and in one drawn degradation, ``matrix`` in HQ and in every kind
    at every severity, ``unseen`` likewise in the kinds that no training has, or a list such as ``[HQ, defocus,
    low_light:3]``."""

    def __post_init__(self) -> None:
        super().__init__()
        self._require_split(self.evaluation_split)
        self.require_at_least("benchmark_seed", 0)
        self.require_at_least("extra_clips", 0)
        if self.extra_clips and not self.mixed:
            raise ValueError(
                "extra clips teach a router what a degraded clip is, and without --data.init_args.mixed none is "
                "degraded; set --data.init_args.extra_clips 0"
            )
        self.plan = MixedQualityPlan(
            self.benchmark_seed,
            mixed=self.mixed,
            variants=self.variants,
            kernels=self.kernels,
            left_out=tuple(self.left_out_kinds),
        )
        self.degraded_files: DegradedFiles | None = None
        self._evaluation_conditions = expand_conditions(self.evaluation_conditions)
        self.records: dict[Split, tuple[Record, ...]] = {}
        self.extra_records: tuple[Record, ...] = ()

    def require_at_least(self, option: str, least: int) -> None:
        if (number := getattr(self, option)) < least:
            raise ValueError(f"--data.init_args.{option} must be at least {least}, got {number}")

    def _require_split(self, split: Split) -> None:
        if split not in self.splits:
            raise ValueError(
                f"{type(self).__name__} has the splits {', '.join(self.splits)}, got '{split}'; choose on 'val', and "
                "measure on 'test'"
            )

    @abstractmethod
    def load_records(self, split: Split) -> tuple[Record, ...]:
        """All records of a split, in a fixed order."""

    @abstractmethod
    def frame_choice(self, split: Split) -> FrameChoice:
        """Which frames of a record are shown."""

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """What the pixels depend on, for results and caches: data set, version, seeds."""

    def shared_provenance(self, *, num_frames: int | None) -> dict[str, Any]:
        """The part of the provenance that all data sets share.

        Args:
            num_frames: sampled of each clip; ``None`` where it takes more than one number to say.
        """
        files = self.degraded_files
        lossy = {} if files is None or files.lossless else {"degraded": files.manifest.encoding}
        return {
            "degradations": self.degradation_version(self.evaluation_split),
            "benchmark_seed": self.plan.benchmark_seed,
            "num_frames": num_frames,
            **lossy,
        }

    # --- records -----------------------------------------------------------------------------------------------------

    def setup_split(self, split: Split) -> None:
        self._require_split(split)
        records = self.load_records(split)
        if split == "train":
            if self.training_items is not None and not 1 <= self.training_items <= len(records):
                raise ValueError(f"training_items must lie in [1, {len(records)}], got {self.training_items}")
            records, cut = records[: self.training_items], records[len(records[: self.training_items]) :]
            self.extra_records = self._extra_records(records, cut) if self.extra_clips else ()
            self.plan.require_variants([record.clip_id for record in records])
        self.records[split] = records
        if split == "val" and not self._of_half(self.validation_half):
            raise ValueError(
                f"no clip of 'val' is in its half '{self.validation_half}', for it has few clips: show more, or set "
                "--data.init_args.validation_half null"
            )

    def _extra_records(self, trained: Sequence[Record], cut: Sequence[Record]) -> tuple[Record, ...]:
        """One of each clip that is not trained on; ``cut`` are those that ``training_items`` leaves out.

        A clip whose degraded variants are all of a kind that training leaves out is no extra clip.

        Raises:
            ValueError: there is no such clip, or all are of that kind.
        """
        shown = {record.clip_id for record in trained}
        extra = {r.clip_id: r for r in (*cut, *self.spare_records()) if r.clip_id not in shown}
        if not extra:
            raise ValueError(
                f"--data.init_args.extra_clips {self.extra_clips} needs clips of the training split that are not "
                f"trained on, but all {len(shown)} are; train on fewer, or set it to 0"
            )
        shown_in_both = tuple(record for clip_id, record in extra.items() if not self.plan.lacks_variants(clip_id))
        if not shown_in_both:
            self.plan.require_variants(list(extra))
        return shown_in_both

    def _loaded_records(self, split: Split) -> tuple[Record, ...]:
        """What the draws of a split count: its records and, behind those of training, the extra ones."""
        return (*self.records[split], *(self.extra_records if split == "train" else ()))

    def spare_records(self) -> tuple[Record, ...]:
        """Records of the training split that an option of the data set's own keeps out of training."""
        return ()

    def skipped(self, split: Split) -> int:
        """Samples of a split that a policy keeps out, each condition of an item being one."""
        return 0

    def policies(self) -> dict[str, dict[str, Any]]:
        """What is done with faulty data, by option: its ``policy``, and what that has ``touched`` of each split.

        That is so many ``sentences``, ``clips`` and ``frames``, of the splits that are set up.
        """
        return {}

    def half_of(self, clip_id: str) -> ValidationHalf:
        """Which half of ``val`` a clip is in: a function of what it was cut from, so that no option moves it."""
        return ("search", "ablate")[derive_seed("val half", self.cut_from(clip_id)) % 2]

    def _of_half(self, half: ValidationHalf | None) -> list[int]:
        """The records of ``val`` that are in a half, by their indices; all where none is named."""
        records = enumerate(self.records["val"])
        return [index for index, record in records if half is None or self.half_of(record.clip_id) == half]

    def cut_from(self, clip_id: str) -> str:
        """What a clip was cut from: clips that share it are in the same half of ``val``."""
        return clip_id

    # --- conditions --------------------------------------------------------------------------------------------------

    def conditions(self, stage: str) -> Conditions:
        """What a stage (``fit``, ``validate`` or ``test``) measures under."""
        split: Split = self.evaluation_split if stage == "test" else "val"
        provenance = self.provenance()
        name = provenance["dataset"]
        if self.plan.kernels != "relative":
            name += f", {self.degradation_version(split)}"
        if "degraded" in provenance:
            name += f", LQ files in {provenance['degraded']}"
        half = f"_{self.validation_half}" if split == "val" and self.validation_half else ""
        return Conditions(name, split + half, self.plan.benchmark_seed, conditions_name(self.shown_conditions(split)))

    def shown_conditions(self, split: Split) -> tuple[str, ...]:
        """In which conditions each clip of a split that is not trained on is shown."""
        return self._evaluation_conditions if split == self.evaluation_split else expand_conditions("mixed")

    def degradation_version(self, split: Split) -> str:
        """Names the pixels of a split's LQ clips."""
        return version_name(self.plan.kernels, unseen=self._shows_unseen(split))

    def _shows_unseen(self, split: Split) -> bool:
        return split != "train" and shows_unseen(self.shown_conditions(split))
