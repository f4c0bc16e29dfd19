"""From records to loaders: the part of a Lightning data module that all data sets share."""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.utils.data import DataLoader, Sampler

from datamodules.caches.array_store import CacheError
from datamodules.caches.features import ClipVersion, FeatureCache, FeatureWriter, feature_key, write_features
from datamodules.caches.frames import FrameCache, FramesOfClip, write_frames
from datamodules.clips import ClipDataset, collate, describe_sample
from datamodules.degradation.files import DegradedFiles
from datamodules.degradation.kinds import DegradationKind, version_name
from datamodules.loaders import TrainingLoader, load_batches
from datamodules.on_device import finish_on_device
from datamodules.pixels import PixelSource
from datamodules.quality import (
    HIGH,
    Draw,
    EvaluationConditions,
    MixedQualityPlan,
    conditions_name,
    expand_conditions,
    shows_unseen,
)
from datamodules.records import Record
from datamodules.samplers import EvaluationSampler, TrainingSampler
from datamodules.sampling import FrameChoice
from datamodules.shown import ClipAugmentation
from datamodules.steps import StepCounter, batches_of_effective_batch, describe_step
from datamodules.transforms import Resize, Resizing
from stvg_nst.results.conditions import MIXED, Conditions
from stvg_nst.seeding import derive_seed
from stvg_nst.types import BackboneFeatures, Batch, Clip, ClipInfo, Kernels, Quality

Split = Literal["train", "val", "test", "confirm"]
ValidationHalf = Literal["search", "ablate"]

# Cached features of so many bytes a version, or fewer, are read in the main process: those of MiniSTVG (0.5 MB) take a
# millisecond, which is not worth a worker. At the full size (96 MB) a read, with its checksum and the change to
# single precision, takes 0.12 s or more, for which the network would have to wait (make bench-reading).
_READ_AT_ONCE_BYTES = 4 * 2**20

_CPU = torch.device("cpu")

_log = logging.getLogger(__name__)


@dataclass(eq=False)  # a data module equals itself alone, and can be a key
class STVGDataModule(lightning.LightningDataModule, ABC):
    """Mixes HQ clips with clips degraded on the fly (training), and shows each clip in both qualities (evaluation).

    A data set is a child, and a dataclass too: its fields are its own options, and those of the options below whose
    default differs.
    """

    renders_videos: ClassVar[bool] = False
    """Whether the version in the provenance fixes the videos, because they are rendered by it."""

    splits: ClassVar[tuple[Split, ...]] = ("train", "val", "test")
    """What the data set has."""

    _: KW_ONLY

    batch_size: int = 8
    """clips of a training batch on each device."""

    effective_batch: int | None = None
    """clips of an optimiser step, of all devices of all nodes together. Each process then gathers the gradients of as
    many batches as that takes, and clips of an epoch that do not fill a step are left out, so that the steps are the
    same on any number of devices. ``null`` follows ``--trainer.accumulate_grad_batches``."""

    eval_batch_size: int = 16
    """clips of a validation or test batch on each device."""

    num_workers: int = 2
    """loader processes; 0 loads in the main process, as are small cached features whatever it says."""

    finish_on: Literal["auto", "loader", "device"] = "auto"
    """where frames become what the network takes, resized and in floats: in the loader's processes, or on the device of
    the network, to which they then travel as bytes. ``auto`` is the device, unless that is the CPU."""

    benchmark_seed: int = 0
    """fixes the degradations of the evaluation; part of the benchmark, not of a run."""

    seed: int = 0
    """of the run: order, qualities and degradations of training."""

    mixed: bool = True
    """train on HQ and LQ clips 1 : 1; ``false`` trains on HQ clips only, as a grounder is pretrained."""

    variants: int | None = None
    """``null`` degrades every training sample anew; K draws from K fixed variants a clip (for the cache)."""

    left_out_kinds: Sequence[DegradationKind] = ()
    """kinds of degradation that training never draws, such as ``[low_light]``, to test on what was not trained on."""

    features: Path | None = None
    """folder of a cache of frozen backbone features, or ``null`` to decode and encode every time."""

    frames: Path | None = None
    """folder of a cache of decoded frames (``cache frames``), or ``null`` to decode every time."""

    kernels: Kernels = "relative"
    """``relative`` scales the degradations with the short side of the frames; ``absolute`` does not."""

    training_items: int | None = None
    """train on the first so many records only; ``null`` for all."""

    extra_clips: int = 0
    """clips of the training split beyond those trained on that come with each training sample, half of them degraded.
    Of them the quality alone is known; they teach a tuner's router, ``--model.tuner.init_args.router_reads
    statistics``. With cached features they cost next to nothing, else a pass of the visual encoders each."""

    twins: bool = False
    """hand over each degraded training clip in high quality too, for ``--model.twin``."""

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
        if self.features is not None and self.mixed and self.variants is None:
            raise ValueError(
                "a feature cache holds a fixed number of degraded variants a clip: set --data.init_args.variants, "
                "or --data.init_args.features null to degrade anew every time"
            )
        self._require_split(self.evaluation_split)
        self.require_at_least("batch_size", 1)
        if self.effective_batch is not None:
            self.require_at_least("effective_batch", 1)
        self.require_at_least("eval_batch_size", 1)
        self.require_at_least("num_workers", 0)
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
        self.caches: dict[Split, FeatureCache | None] = {}
        self.sources: dict[Split, PixelSource] = {}

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

    def degradations(self) -> dict[str, Any]:
        """What made the LQ clips, to the last pixel: version, seed, where they came from, and hashes of the pixels.

        Where features are cached, what ``test`` measures on must be set up. What an older cache does not say is
        ``None``.
        """
        version = self.degradation_version(self.evaluation_split)
        if self.features is None:
            origin = PixelSource(degraded=self.degraded_files).origin(unseen=self._shows_unseen(self.evaluation_split))
        else:
            cache = self.caches[self.evaluation_split]
            assert cache is not None
            origin = cache.origin
        if origin.golden is False:
            _log.warning(
                "the pixels of the degradations are not the golden ones of %s: another processor, or another release "
                "of OpenCV, rounds differently; numbers may differ a little from those of others",
                version,
            )
        return {
            "version": version,
            "benchmark_seed": self.plan.benchmark_seed,
            "source": origin.source,
            "pixels": origin.hashes,
            "golden": origin.golden,
        }

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

    @property
    def clip_seconds(self) -> float:
        """What a clip lasts at most, or nearly so. Networks know no longer ones, and are shown windows of it."""
        return 20.0

    def resize(self) -> Resizing | None:
        """How frames are brought to the network's size, ``None`` to show them as they are."""
        return None

    def training_augmentation(self) -> ClipAugmentation | None:
        """What is done to training clips by chance besides degrading them, ``None`` for nothing."""
        return None

    def skipped(self, split: Split) -> int:
        """Samples of a split that a policy keeps out, each condition of an item being one."""
        return 0

    def policies(self) -> dict[str, dict[str, Any]]:
        """What is done with faulty data, by option: its ``policy``, and what that has ``touched`` of each split.

        That is so many ``sentences``, ``clips`` and ``frames``, of the splits that are set up.
        """
        return {}

    def setup(self, stage: str) -> None:
        if self.trainer is not None and self.trainer.overfit_batches:  # type: ignore[attr-defined]  # set dynamically
            raise ValueError(
                "--trainer.overfit_batches shows samples in an order of its own, but here the order decides which clip "
                "is shown in which quality; give --data.init_args.training_items and --trainer.limit_val_batches"
            )
        splits: dict[str, tuple[Split, ...]] = {
            "fit": ("train", "val"),
            "validate": ("val",),
            "test": (self.evaluation_split,),
        }
        for split in splits.get(stage, ()):
            self.setup_split(split)
            self._open(split)
        if stage == "fit" and self.trainer is not None:
            self._plan_steps(self.trainer)

    def _plan_steps(self, trainer: lightning.Trainer) -> None:
        """Lets the trainer gather as many batches as the effective batch takes, and says what a step is made of.

        Raises:
            ValueError: no number of batches makes the effective batch, or another number is asked for.
        """
        processes, asked = trainer.world_size, trainer.accumulate_grad_batches
        if self.effective_batch is not None:
            gathered = batches_of_effective_batch(self.effective_batch, batch_size=self.batch_size, processes=processes)
            if asked not in (1, gathered):
                raise ValueError(
                    f"--data.init_args.effective_batch {self.effective_batch} gathers {gathered} batches a step, but "
                    f"--trainer.accumulate_grad_batches is {asked}; leave that out"
                )
            if any(isinstance(callback, GradientAccumulationScheduler) for callback in trainer.callbacks):  # type: ignore[attr-defined]
                raise ValueError(
                    f"--data.init_args.effective_batch {self.effective_batch} gathers as many batches in every epoch, "
                    "but a GradientAccumulationScheduler sets another number; leave out one of the two"
                )
            trainer.accumulate_grad_batches = gathered
        if trainer.is_global_zero:
            _log.info(describe_step(trainer, self.batch_size))

    def _open(self, split: Split) -> None:
        """Opens what the samples of a split are read from."""
        self.caches[split] = None if self.features is None else self.open_cache(split)
        self.sources[split] = self.pixel_source(split)

    def pixel_source(self, split: Split) -> PixelSource:
        """Where the frames of a split that is set up are read from.

        Raises:
            CacheError: the cache of frames, or the folder of degraded videos, is of something else or not complete.
        """
        frames = None if self.frames is None else self.open_frames(split)
        if frames is not None:
            frames.require(self.frames_of_clips(split))
        # Training draws its degradations anew, so that no files have them.
        degraded = None if split == "train" else self.degraded_files
        if degraded is not None:
            videos = {record.clip_id: record.video for record in self.records[split]}
            degraded.check(self.provenance()["dataset"], self.plan.benchmark_seed, self.plan.kernels, videos)
        return PixelSource(frames, degraded)

    def setup_split(self, split: Split) -> None:
        self._require_split(split)
        records = self.load_records(split)
        if split == "train" and self.training_items is not None and not 1 <= self.training_items <= len(records):
            raise ValueError(f"training_items must lie in [1, {len(records)}], got {self.training_items}")
        if split == "train":
            records, cut = records[: self.training_items], records[len(records[: self.training_items]) :]
            self.extra_records = self._extra_records(records, cut) if self.extra_clips else ()
        if split == "train":
            self.plan.require_variants([record.clip_id for record in records])
        self.records[split] = records
        if split == "val" and not self._of_half(self.validation_half):
            raise ValueError(
                f"no clip of 'val' is in its half '{self.validation_half}', for it has few clips: show more, or set "
                "--data.init_args.validation_half null"
            )

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

    def spare_records(self) -> tuple[Record, ...]:
        """Records of the training split that an option of the data set's own keeps out of training."""
        return ()

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

    def evaluation_loader(self, split: Split) -> DataLoader[Clip]:
        """Every clip of a split in all its conditions, for what runs without a trainer and its stages."""
        self.setup_split(split)
        self._open(split)
        return self._loader(split, self.eval_batch_size)

    # --- the cache of frozen features -------------------------------------------------------------------------------

    def cache_folder(self, split: Split) -> Path:
        """The folder of a split. Another draw of the benchmark, or other conditions, have folders of their own."""
        if self.features is None:
            raise ValueError("no folder for cached features is set: give --data.init_args.features FOLDER")
        draw, shown = self.plan.benchmark_seed, MIXED
        if split != "train":
            shown = conditions_name(self.shown_conditions(split))
        parts = [split, *[f"benchmark{draw}"] * (draw != 0), *[shown.replace(":", "")] * (shown != MIXED)]
        return self.features / "-".join(parts)

    def cache_provenance(self, split: Split) -> dict[str, Any]:
        return {**self.provenance(), "split": split, "degradations": self.degradation_version(split)}

    def open_cache(self, split: Split) -> FeatureCache:
        """The cache of the split, which may hold more clips than are shown: a smaller run reads from a larger one's."""
        cache = FeatureCache(self.cache_folder(split), self.cache_provenance(split))
        records = self._loaded_records(split)
        shown = ((records[version.index], version.degradation) for version in self.versions(split))
        clips = {feature_key(record.clip_id, made): self._frames_of(split, record) for record, made in shown}
        cache.require(clips, need_notes=not self.renders_videos)
        return cache

    @property
    def cached_backbones(self) -> str | None:
        """Fingerprint of the backbones that made the cached features, ``None`` where nothing is cached."""
        fingerprints = {cache.backbones for cache in self.caches.values() if cache is not None}
        if len(fingerprints) > 1:
            raise CacheError(f"the caches in '{self.features}' were made by different backbones; build them again")
        return fingerprints.pop() if fingerprints else None

    def versions(self, split: Split) -> tuple[Draw, ...]:
        """Every version of every clip that a cache of the split must hold, once each."""
        versions = []
        first = {record.clip_id: index for index, record in reversed(list(enumerate(self._loaded_records(split))))}
        for clip_id, index in sorted(first.items(), key=lambda item: item[1]):
            if split != "train":
                conditions = self.shown_conditions(split)
                versions += [Draw(index, self.plan.degradation_in(condition, clip_id)) for condition in conditions]
                continue
            versions.append(Draw(index, None))
            if self.plan.mixed:
                versions += [Draw(index, variant) for variant in self.plan.trained_variants(clip_id)]
        return tuple(versions)

    def build_cache(
        self,
        split: Split,
        encode: Callable[[Batch], BackboneFeatures],
        backbones: str,
        progress: Callable[[int, int, int], None] = lambda done, total, num_bytes: None,
        *,
        device: torch.device = _CPU,
    ) -> Path:
        """Encodes every version of the split's clips, as :func:`datamodules.caches.features.write_features` says.

        A cache that exists already and was made from the same is kept. One that is not finished is begun anew.

        Args:
            encode: is given batches on the device.
            backbones: fingerprint of what encodes.
            progress: as there.
            device: of what encodes.

        Returns:
            The cache's folder.

        Raises:
            CacheError: one exists already, but was made from something else.
            OSError: there is not room enough.
        """
        self.setup_split(split)
        folder = self.cache_folder(split)
        if folder.exists():
            if self.open_cache(split).backbones == backbones:
                return folder
            raise CacheError(f"'{folder}' was made by other backbones; delete it, or choose another folder")
        draws, source, records = self.versions(split), self.pixel_source(split), self._loaded_records(split)
        finished = not self._finishes_on(device)
        dataset = ClipDataset(records, self.frame_choice(split), self.resize(), source, None, finished=finished)
        loader = load_batches(
            dataset,
            collate,
            batch_size=self.eval_batch_size,
            sampler=draws,
            num_workers=self.num_workers,
            batch_bytes=dataset.batch_bytes(draws[: self.eval_batch_size]),
        )
        versions = [
            ClipVersion(
                feature_key(record.clip_id, draw.degradation),
                self._frames_of(split, record),
                source.video_bytes(record),
            )
            for record, draw in ((records[draw.index], draw) for draw in draws)
        ]
        origin = source.origin(unseen=self._shows_unseen(split))
        with FeatureWriter(folder, self.cache_provenance(split), backbones, origin) as writer:
            write_features(
                writer,
                folder,
                versions,
                loader,
                lambda batch: encode(self.on_after_batch_transfer(batch.to(device), 0)),
                progress=progress,
            )
        return folder

    # --- the cache of decoded frames --------------------------------------------------------------------------------

    def frames_folder(self, split: Split) -> Path:
        if self.frames is None:
            raise ValueError("no folder for decoded frames is set: give --data.init_args.frames FOLDER")
        return self.frames / split

    def frames_provenance(self, split: Split) -> dict[str, Any]:
        """What the clean frames of a split depend on besides the names of the clips; no seed is part of it."""
        provenance = self.provenance()
        names = [name for name in ("dataset", "version") if name in provenance]
        return {"frames": repr(self.frame_choice(split)), **{name: provenance[name] for name in names}}

    def open_frames(self, split: Split) -> FrameCache:
        return FrameCache(self.frames_folder(split), self.frames_provenance(split))

    def frames_of_clips(self, split: Split) -> tuple[FramesOfClip, ...]:
        """What a cache of the split must hold, each clip once."""
        clips = {record.clip_id: record for record in self._loaded_records(split)}
        return tuple(self._frames_of(split, record) for record in clips.values())

    def _frames_of(self, split: Split, record: Record) -> FramesOfClip:
        return FramesOfClip(record.clip_id, record.video, self.frame_choice(split)(record), record.size)

    def build_frames(
        self, split: Split, clips: Sequence[FramesOfClip], *, workers: int, progress: Callable[[int], None]
    ) -> None:
        """Decodes clips of a split into its cache, as :func:`datamodules.caches.frames.write_frames` says."""
        folder, provenance = self.frames_folder(split), self.frames_provenance(split)
        write_frames(folder, provenance, clips, workers=workers, progress=progress)

    # --- samples ----------------------------------------------------------------------------------------------------

    def pixels(self, info: ClipInfo) -> np.ndarray:
        """The sampled native frames of a clip in its own quality, uint8 (T, H, W, 3): what the network was shown."""
        for split, records in self.records.items():
            for record in records:
                # By the video too: splits whose annotations are a person's own may use a name again.
                if (record.item_id, str(record.video)) == (info.item_id, info.video):
                    return self._source(split).read(record, info.frame_ids, info.degradation)
        raise ValueError(f"item '{info.item_id}' is in none of the splits that are set up: {', '.join(self.records)}")

    def sample(self, item_id: str, quality: Quality) -> ClipInfo:
        """One sample of what ``test`` measures on, to look at.

        Raises:
            ValueError: the split has no such item.
        """
        split = self.evaluation_split
        if split not in self.records:
            self.setup_split(split)
        record = next((record for record in self.records[split] if record.item_id == item_id), None)
        if record is None:
            raise ValueError(f"the {split} split of {type(self).__name__} has no item '{item_id}'")
        degradation = None if quality is Quality.HQ else self.plan.evaluation_degradation(record.clip_id)
        return describe_sample(record, self.frame_choice(split)(record), degradation)

    def _source(self, split: Split) -> PixelSource:
        return self.sources.get(split, PixelSource())

    # --- loaders ----------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader[Clip]:
        return self._loader("train", self.batch_size)

    def val_dataloader(self) -> DataLoader[Clip]:
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Clip]:
        return self._loader(self.evaluation_split, self.eval_batch_size)

    def clean_training_loader(self, clips: int) -> DataLoader[Clip]:
        """So many clips of the tuning set in high quality, or all where there are fewer; each once, with one sentence.

        Which ones, and which sentence of each, is drawn by the run's seed. Every process gets the same.
        """
        records = self.records["train"]
        order = np.random.default_rng(derive_seed("clean clips", self.seed)).permutation(len(records))
        drawn: dict[str, int] = {}
        for index in order:
            drawn.setdefault(records[index].clip_id, int(index))
        sampler = EvaluationSampler([Draw(index, None) for index in islice(drawn.values(), clips)])
        return self._load("train", sampler, self.eval_batch_size)

    def clean_validation_loader(self) -> DataLoader[Clip]:
        """Every sample of the validation split in high quality, of its half ``search`` where halves are told apart.

        Every process gets all of them.

        Raises:
            ValueError: the split is not shown in high quality, so that no cache need hold it.
        """
        if HIGH not in self.shown_conditions("val"):
            raise ValueError(
                f"the threshold of a gate is set by clips of 'val' in high quality, but it is shown in "
                f"{', '.join(self.shown_conditions('val'))}; add HQ to --data.init_args.evaluation_conditions"
            )
        chosen_by = self._of_half(None if self.validation_half is None else "search")
        sampler = EvaluationSampler([Draw(index, None) for index in chosen_by])
        return self._load("val", sampler, self.eval_batch_size)

    def _loader(self, split: Split, batch_size: int) -> DataLoader[Clip]:
        records = self.records[split]
        shown = self._of_half(self.validation_half) if split == "val" else range(len(records))
        clip_ids = [records[index].clip_id for index in shown]
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        sampler: Sampler[Draw]
        if split == "train":
            augmented = self.training_augmentation() is not None
            sampler = TrainingSampler(
                self.plan,
                clip_ids,
                self.seed,
                rank,
                world_size,
                batch_size=batch_size,
                step_clips=self.effective_batch,
                augmented=augmented,
                dealt=self._training_draws_dealt,
                extra_clip_ids=[record.clip_id for record in self.extra_records],
                extra_clips=self.extra_clips,
            )
            if len(sampler) < batch_size:
                raise ValueError(
                    f"expected at least one training batch of {batch_size} samples for each of {world_size} "
                    f"process(es), got {len(sampler)} samples; lower --data.init_args.batch_size, effective_batch or "
                    "the number of devices, or tune on more clips"
                )
        else:
            if len(clip_ids) < world_size:
                # A process without a clip would wait for ever for the losses of the others, and they for its own.
                raise ValueError(
                    f"expected at least one clip of '{split}' for each of {world_size} processes, got "
                    f"{len(clip_ids)}; lower --trainer.devices, or show more clips"
                )
            draws = self.plan.evaluation(clip_ids, self.shown_conditions(split), rank=rank, world_size=world_size)
            sampler = EvaluationSampler([replace(draw, index=shown[draw.index]) for draw in draws])
        return self._load(split, sampler, batch_size, finished=not self.finishes_on_device)

    @property
    def finishes_on_device(self) -> bool:
        """Whether the trainer's loops are handed frames that are finished on its device."""
        return self.trainer is not None and self._finishes_on(self.trainer.strategy.root_device)

    def _finishes_on(self, device: torch.device) -> bool:
        return self.finish_on == "device" or (self.finish_on == "auto" and device.type != "cpu")

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        resize = self.resize()
        return finish_on_device(batch, resize if isinstance(resize, Resize) else None)

    def _load(
        self, split: Split, sampler: Sampler[Draw], batch_size: int, *, finished: bool = True
    ) -> DataLoader[Clip]:
        cache = self.caches[split]
        at_once = cache is not None and cache.largest_version_bytes <= _READ_AT_ONCE_BYTES
        workers = 0 if at_once else self.num_workers
        dataset = ClipDataset(
            self._loaded_records(split),
            self.frame_choice(split),
            self.resize(),
            self._source(split),
            cache,
            self.training_augmentation(),
            twins=self.twins and split == "train",
            finished=finished,
        )
        loader = load_batches(
            dataset,
            collate,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=workers,
            batch_bytes=dataset.batch_bytes(tuple(islice(sampler, batch_size))),
            processes=self.trainer.num_devices if workers and self.trainer else 1,
            persistent=True,
            drop_last=isinstance(sampler, TrainingSampler),
        )
        if isinstance(loader, TrainingLoader):
            loader.step_totals = StepCounter(loader.sampler, dataset.count_boxes, self._batches_of_step)
        return loader

    def _batches_of_step(self, batch: int) -> range:
        """The batches of this process that its optimiser step gathers beside one of them."""
        if self.trainer is None:
            return range(batch, batch + 1)
        gathered = self.trainer.accumulate_grad_batches
        first = batch // gathered * gathered
        return range(first, min(first + gathered, int(self.trainer.num_training_batches)))

    def _training_draws_dealt(self) -> int:
        """Draws that the current epoch has had, by Lightning's count, which a checkpoint within an epoch restores."""
        batches = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready if self.trainer else 0
        return batches * self.batch_size

    def training_fingerprint(self) -> str:
        """SHA-256 of what is trained on, wherever it lies: every clip, sentence and tube of the training set."""
        digest = hashlib.sha256()
        for record in self.records["train"]:
            target, shown = record.target, (record.segment, record.num_frames, record.fps, record.size)
            said = (record.item_id, record.clip_id, record.query, shown, target.start, target.stop)
            digest.update(repr(said).encode())
            digest.update(target.boxes.numpy().tobytes())
        for record in self.extra_records:
            digest.update(record.clip_id.encode())
        return digest.hexdigest()
