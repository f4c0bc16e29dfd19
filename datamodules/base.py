"""From records to loaders: the part of a Lightning data module that all data sets share."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import KW_ONLY, dataclass, replace
from itertools import islice

import lightning
import numpy as np
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.utils.data import DataLoader, Sampler

from datamodules.cached_splits import CachedSplits
from datamodules.clips import ClipDataset, collate
from datamodules.loaders import TrainingLoader, load_batches
from datamodules.quality import HIGH, Draw
from datamodules.samplers import EvaluationSampler, TrainingSampler
from datamodules.shown import ClipAugmentation
from datamodules.splits import Split
from datamodules.steps import StepCounter, batches_of_effective_batch, describe_step
from stvg_nst.seeding import derive_seed
from stvg_nst.types import Clip

# Cached features of so many bytes a version, or fewer, are read in the main process: those of MiniSTVG (0.5 MB) take a
# millisecond, which is not worth a worker. At the full size (96 MB) a read, with its checksum and the change to
# single precision, takes 0.12 s or more, for which the network would have to wait (make bench-reading).
_READ_AT_ONCE_BYTES = 4 * 2**20

CLIP_TOLERANCE = 0.1
"""A film that lasts longer than a network's clips by no more than this share is shown at once."""

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class STVGDataModule(CachedSplits):
    """Mixes HQ clips with clips degraded on the fly (training), and shows each clip in both qualities (evaluation).

    It has three parts, each on top of the one before: the records of the splits, what their samples are read from, and,
    here, the loaders.

    A data set is a child, and a dataclass too: its fields are its own options, and those of the shared options whose
    default differs.
    """

    _: KW_ONLY

    batch_size: int = 8
    """clips of a training batch on each device."""

    effective_batch: int | None = None
    """clips of an optimiser step, of all devices of all nodes together. Each process then gathers the gradients of as
    many batches as that takes, and clips of an epoch that do not fill a step are left out, so that the steps are the
    same on any number of devices. ``null`` follows ``--trainer.accumulate_grad_batches``."""

    seed: int = 0
    """of the run: order, qualities and degradations of training."""

    twins: bool = False
    """hand over each degraded training clip in high quality too, for ``--model.twin``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_at_least("batch_size", 1)
        if self.effective_batch is not None:
            self.require_at_least("effective_batch", 1)

    @property
    def clip_seconds(self) -> float:
        """What a clip lasts at most, or nearly so. Networks know no longer ones, and are shown windows of it."""
        return 20.0

    def training_augmentation(self) -> ClipAugmentation | None:
        """What is done to training clips by chance besides degrading them, ``None`` for nothing."""
        return None

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

    # --- loaders -----------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader[Clip]:
        return self._loader("train", self.batch_size)

    def val_dataloader(self) -> DataLoader[Clip]:
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Clip]:
        return self._loader(self.evaluation_split, self.eval_batch_size)

    def evaluation_loader(self, split: Split) -> DataLoader[Clip]:
        """Every clip of a split in all its conditions, for what runs without a trainer and its stages."""
        self.setup_split(split)
        self._open(split)
        return self._loader(split, self.eval_batch_size)

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
