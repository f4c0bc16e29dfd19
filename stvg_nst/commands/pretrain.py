"""The commands that make the miniature grounder anew: its tokenizer, its encoders, its grounding model and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer

from datamodules import MiniScenes
from datamodules.ministvg import all_sentences_sample
from stvg_nst.command_line.arguments import CommandParser
from stvg_nst.command_line.overlay_parser import OverlayParser
from stvg_nst.commands.console import console
from stvg_nst.commands.lightning_cli import SeededCLI
from stvg_nst.commands.run import RunCLI, stoppable
from stvg_nst.machine.outputs import check_folder_is_writable
from stvg_nst.models.blocks.vocabulary import write_stand_in, write_text_encoder
from stvg_nst.pretraining import BoxPretraining, DensePretraining, GroundingPretraining
from stvg_nst.results.run_folder import RunFile
from stvg_nst.run_lock import alone_in_run
from stvg_nst.training.checkpoints import find_checkpoint, require_checkpoint, write_whole_checkpoints
from stvg_nst.training.interruption import Interruption


def vocabulary(arguments: Sequence[str], program: str) -> int:
    parser = CommandParser(prog=program, description="Train the miniature's tokenizer.")
    parser.add_argument("folder", type=Path, help="gets tokenizer.json, tokenizer_config.json and config.json")
    parser.add_argument(
        "--roberta-base",
        action="store_true",
        help="in the shape of roberta-base: a stand-in, to try the full size with random weights and without a network",
    )
    options = parser.parse_args(arguments)
    check_folder_is_writable(options.folder)
    sentences = all_sentences_sample(seed=0, n=4000)
    if options.roberta_base:
        write_stand_in(sentences, options.folder)
        return 0
    write_text_encoder(
        sentences,
        options.folder,
        width=96,
        layers=2,
        heads=4,
        max_tokens=48,
        vocabulary=1000,
    )
    return 0


def encoders(arguments: Sequence[str], program: str) -> int:
    with console():
        cli = SeededCLI(
            DensePretraining,
            MiniScenes,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            save_config_callback=None,
            parser_class=OverlayParser,
            parser_kwargs={
                "prog": program,
                "allow_abbrev": False,
                "description": "Pretrain a miniature's visual encoders on its HQ clips.",
            },
            run=False,
            args=[*arguments],
        )
        fit_encoders(cli.trainer, cli.model, cli.datamodule)
    return 0


def fit_encoders(trainer: Trainer, module: LightningModule, data: Any) -> None:
    """`encoders`: fits, or goes on where the same command was interrupted; its folder is that of its dashboard.

    Raises:
        StoppedError, CheckpointError, BlockingIOError: as :class:`stvg_nst.commands.run.RunCLI`.
    """
    run = Path(trainer.logger.log_dir if trainer.logger else trainer.default_root_dir)  # type: ignore[arg-type]
    go_on = "the same command goes on from"
    with stoppable(go_on), alone_in_run(run):
        checkpoint = find_checkpoint("last", run, [run / RunFile.CHECKPOINTS], "encoders")
        if checkpoint is not None:
            require_checkpoint(checkpoint, "encoders")
        write_whole_checkpoints(trainer)
        trainer.callbacks = [*trainer.callbacks, Interruption(go_on)]  # type: ignore[attr-defined]
        trainer.fit(module, data, ckpt_path=checkpoint)


def grounding(arguments: Sequence[str], program: str) -> int:
    RunCLI("fit", arguments, GroundingPretraining, "Pretrain a miniature's grounding model over its frozen encoders.")
    return 0


def boxes(arguments: Sequence[str], program: str) -> int:
    RunCLI("fit", arguments, BoxPretraining, "Train a miniature's grounding model further, with a loss on boxes.")
    return 0
