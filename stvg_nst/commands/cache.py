"""`cache features` and `cache frames`: what a run reads again in every epoch, stored once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

import torch
from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console

from datamodules.base import STVGDataModule
from datamodules.splits import Split
from stvg_nst.command_line.arguments import positive_int
from stvg_nst.command_line.overlay_parser import OverlayParser
from stvg_nst.commands.console import console
from stvg_nst.commands.data_options import add_splits, chosen_splits, progress_bar, say
from stvg_nst.commands.lightning_cli import BuiltCLI
from stvg_nst.machine.cores import granted_cores
from stvg_nst.machine.disk_room import check_room, room_words
from stvg_nst.types import BackboneFeatures, Batch

_WHICH = "which to store; train, val and test unless given"


def features(arguments: Sequence[str], program: str) -> int:
    with console():
        FeaturesCLI(arguments, program).build()
    return 0


class FeaturesCLI(BuiltCLI):
    """`cache features`: stores what the frozen visual encoders say of a data set."""

    description = (
        "Store the outputs of the frozen visual encoders for a data set, so that later epochs do not encode it again. "
        "A split that is stored already is kept. Takes the overlays of a run."
    )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        add_splits(parser, choices=get_args(Split), help=_WHICH)

    @torch.no_grad()
    def build(self) -> None:
        """Writes each split's cache; one that exists already is kept."""
        module: Any = self.model
        data: Any = self.datamodule
        module.to("cuda" if torch.cuda.is_available() else "cpu").eval()

        def encode(batch: Batch) -> BackboneFeatures:
            return module.grounder.encode(batch.frames, batch.frame_mask, batch.frame_sizes)

        data.prepare_data()
        backbones = module.backbone_fingerprint()
        for split in chosen_splits(self.config):
            _store_features(data, split, encode, backbones, module.device)


def _store_features(
    data: STVGDataModule,
    split: Split,
    encode: Callable[[Batch], BackboneFeatures],
    backbones: str,
    device: torch.device,
) -> None:
    with progress_bar() as bar:
        task = bar.add_task(f"encoding {split}", total=None)

        def show(done: int, total: int, num_bytes: int) -> None:
            if done == 1:
                room = room_words(num_bytes, data.cache_folder(split))
                say(bar.console, f"{split}: {total:,} versions of clips to write: about {room}")
            bar.update(task, completed=done, total=total)

        folder = data.build_cache(split, encode, backbones, show, device=device)
        if bar.tasks[task].total is None:
            say(bar.console, f"{split}: is stored already, in '{folder}'")


def frames(arguments: Sequence[str], program: str) -> int:
    """Decodes the sampled frames of a data module's splits into its cache."""
    parser = OverlayParser(
        prog=program,
        allow_abbrev=False,
        description="Store the sampled frames of a data set, so that later epochs do not decode it again. Run it again "
        "to continue. Takes the data overlays of a run.",
    )
    parser.add_argument("--config", action="config", help="overlay such as experiments/data/vidstg.yaml")
    parser.add_subclass_arguments(STVGDataModule, "data", required=True)
    add_splits(parser, choices=get_args(Split), help=_WHICH)
    parser.add_argument("--workers", type=positive_int, default=granted_cores(), help="processes that decode")
    parser.add_argument("--estimate", action="store_true", help="only print the size")
    options = parser.parse_args(arguments)
    data: STVGDataModule = parser.instantiate(options).data
    data.prepare_data()
    for split in chosen_splits(options):
        _store_frames(data, split, options.workers, only_estimate=options.estimate)
    return 0


def _store_frames(data: STVGDataModule, split: Split, workers: int, *, only_estimate: bool) -> None:
    data.setup_split(split)
    folder = data.frames_folder(split)
    clips = data.frames_of_clips(split)
    missing = data.open_frames(split).missing(clips)
    num_bytes = sum(clip.num_bytes for clip in missing)
    say(Console(), f"{split}: {len(missing):,} of {len(clips):,} clips to write: {room_words(num_bytes, folder)}")
    if only_estimate or not missing:
        return
    check_room(num_bytes, folder)
    with progress_bar() as bar:
        task = bar.add_task(f"decoding {split}", total=len(missing))
        data.build_frames(split, missing, workers=workers, progress=lambda done: bar.update(task, completed=done))
