"""`fit`, `validate` and `test`: every run is YAML overlays plus overrides, and lives in one folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.utils.tensorboard import SummaryWriter

from stvg_nst.best_effort import BestEffort
from stvg_nst.commands.confirmation import require_listed
from stvg_nst.commands.console import console
from stvg_nst.commands.lightning_cli import ComponentsCLI, components
from stvg_nst.commands.loggers import loggers_of_run
from stvg_nst.module import GroundingModule
from stvg_nst.report import print_report, report_markdown
from stvg_nst.results.run_folder import RunFile
from stvg_nst.run_lock import alone_in_run
from stvg_nst.training.checkpoints import find_checkpoint, require_checkpoint, write_whole_checkpoints
from stvg_nst.training.interruption import GO_ON, Interruption, stopped_by_signals
from stvg_nst.training.processes import LastWords, ended_with_parent
from stvg_nst.training.resuming import Policy, Resumption
from stvg_nst.training.stopping import StoppedError

_PURPOSES = {
    "fit": "Tune a grounder on a data set. Overlays (--config) choose the grounder, the tuner and the data; options "
    "override them. docs/runs.md says what a run writes, and how to resume it.",
    "validate": "Measure a grounder on the validation split.",
    "test": "Measure a grounder on the test split, and print its results beside those of --model.baseline.",
}


def fit(arguments: Sequence[str], program: str) -> int:
    RunCLI("fit", arguments)
    return 0


def validate(arguments: Sequence[str], program: str) -> int:
    RunCLI("validate", arguments)
    return 0


def test(arguments: Sequence[str], program: str) -> int:
    """Tests, and prints the table of what it has left, beside the baseline's where one was given."""
    cli = RunCLI("test", arguments)
    results = Path(cli.trainer.default_root_dir) / RunFile.RESULTS
    if cli.trainer.is_global_zero and results.is_file():
        baseline: Any = cli.model.baseline
        compared = [results] if baseline is None else [baseline.path, results]
        if cli.config.test.table:
            print_report(compared)
        for logger in cli.trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                with BestEffort("the results as a text in TensorBoard"), SummaryWriter(logger.log_dir) as dashboard:
                    dashboard.add_text("results", report_markdown(compared))
    return 0


class RunCLI(ComponentsCLI):
    """`fit`, `validate` and `test`; `--run FOLDER` holds configuration, checkpoints, dashboard and results.

    Args:
        description: what the command does, for its help, where it is another one than its stage.

    Raises:
        StoppedError: the command ended before its work was done.
        CheckpointError: nothing can go on from what ``--ckpt_path`` names.
        BlockingIOError: another command works in the folder.
    """

    def __init__(
        self,
        stage: str,
        arguments: Sequence[str],
        model_class: type[LightningModule] = GroundingModule,
        description: str | None = None,
    ) -> None:
        purposes = {**_PURPOSES, stage: description or _PURPOSES[stage]}
        with ExitStack() as self._held:
            self._held.enter_context(ended_with_parent())
            self._held.enter_context(stoppable())
            super().__init__(
                **{**components(), "model_class": model_class},
                save_config_callback=RunConfig,
                save_config_kwargs={"save_to_log_dir": False},
                # A shortened option would be taken for the full one, and a misspelt one with it.
                parser_kwargs={
                    "prog": "python -m stvg_nst",
                    "allow_abbrev": False,
                    **{name: {"allow_abbrev": False, "description": purpose} for name, purpose in purposes.items()},
                },
                args=[stage, *arguments],
            )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--run", type=str, required=True, help="folder of this run, e.g. runs/my-experiment")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's own ``verbose`` is on unless it is given, for its table of all metrics; ours is a flag."""
        known = LightningCLI.subcommands()
        return {name: known[name] | ({"verbose"} if name != "fit" else set()) for name in ("fit", "validate", "test")}

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **options: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **options)
        parser.add_argument("--verbose", action="store_true", help="also show the libraries' own messages")
        if subcommand != "fit":
            self._subcommand_method_arguments[subcommand].append("verbose")
        if subcommand == "test":
            parser.add_argument("--table", type=bool, default=True, help="print the table of the results at the end")
        if subcommand == "fit":
            parser.add_argument(
                "--changed_settings",
                type=Policy,
                default="refuse",
                help="what to do if the checkpoint to resume from was trained with other settings: refuse, or continue "
                "with the new ones",
            )
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses, and takes what the command works on: its folder, and the checkpoint to go on from."""
        super().parse_arguments(parser, args)
        stage = self.config.subcommand
        config = self.config[stage]
        self._held.enter_context(console(verbose=config.verbose))
        if isinstance(config.trainer.callbacks, Namespace):
            config.trainer.callbacks = [config.trainer.callbacks]
        run = Path(config.run)
        self._held.enter_context(alone_in_run(run))
        chosen = [(callback.get("init_args") or {}).get("dirpath") for callback in config.trainer.callbacks or ()]
        folders = [run / RunFile.CHECKPOINTS, *(Path(folder) for folder in chosen if folder)]
        self._checkpoint = find_checkpoint(config.ckpt_path, run, folders, stage)
        if self._checkpoint is not None:
            require_checkpoint(self._checkpoint, stage, trusted=config.weights_only is False)
        if stage == "fit":
            # Options for this one command: the run's config.yaml must not hand them on, to its test for instance.
            self._policy, config.changed_settings = config.changed_settings, "refuse"
            config.ckpt_path = None
        require_listed(stage, config, self._parser(stage), self._checkpoint)

    def _parse_ckpt_path(self) -> None:
        """Lightning would add a checkpoint's hyper-parameters to the configuration; ours have none."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        _refuse_name_without_text(config.run)
        config.trainer.default_root_dir = config.run
        _refuse_bare_trainer(config.trainer)
        _drop_unwanted_progress_bars(config.trainer)
        if config.trainer.get("enable_model_summary") is None:
            config.trainer.enable_model_summary = config.get("verbose", False)
        loggers = loggers_of_run(config.trainer.logger, config.run)
        config.trainer.logger = loggers if len(loggers) > 1 else loggers[0]

    def instantiate_trainer(self, **options: Any) -> Trainer:
        trainer = super().instantiate_trainer(**options)
        write_whole_checkpoints(trainer)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        first: list[Callback] = [callback for callback in callbacks if isinstance(callback, RunConfig)]
        if self.subcommand == "fit":
            settings = yaml.safe_load(self._parser("fit").dump(self.config.fit, skip_unset=False))
            trusted = self.config.fit.weights_only is False
            first.insert(0, Resumption(settings, self._checkpoint, self._policy, trusted=trusted))
        others = [callback for callback in callbacks if callback not in first]
        trainer.callbacks = [*first, *others, LastWords(), Interruption()]  # type: ignore[attr-defined]
        self.config_init[self.subcommand].ckpt_path = None if self._checkpoint is None else str(self._checkpoint)
        return trainer


class RunConfig(SaveConfigCallback):
    """Keeps the configuration beside what came of it: `config.yaml` of a fit, `test.yaml` of a test.

    That of a fit waits until nothing refuses it any more, for it replaces that of the fit that it resumes.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            super().setup(trainer, pl_module, stage)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().setup(trainer, pl_module, "fit")

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        names = {"fit": RunFile.CONFIG, "validate": RunFile.VALIDATE_CONFIG, "test": RunFile.TEST_CONFIG}
        # A null is a choice, such as the rank of all directions; left out, the file would mean the default.
        self.parser.save(self.config, folder / names[stage], skip_unset=False, overwrite=True, multifile=False)


@contextmanager
def stoppable(go_on: str = GO_ON) -> Iterator[None]:
    """Says in one line why a command was stopped; of several processes the first one says it, and has the status."""
    with stopped_by_signals(go_on):
        try:
            yield
        except StoppedError as stopped:
            if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
                raise SystemExit(0) from stopped
            print(stopped.text, file=sys.stderr)
            raise


def _refuse_name_without_text(run: str) -> None:
    """Refuses a name that TensorBoard could not write as UTF-8, before the model is built.

    Raises:
        ValueError: the folder's name is no UTF-8.
    """
    try:
        run.encode()
    except UnicodeEncodeError:
        raise ValueError(f"--run {run}: the name of a run's folder must be UTF-8; choose another") from None


def _refuse_bare_trainer(trainer: Namespace) -> None:
    """Refuses Lightning's mode for measuring speed: it keeps neither dashboard nor checkpoints.

    Raises:
        ValueError: it is asked for.
    """
    if trainer.get("barebones"):
        raise ValueError(
            "--trainer.barebones true: such a trainer keeps no dashboard, no checkpoint and no results, and a run is "
            "there for these; leave the option out"
        )


def _drop_unwanted_progress_bars(trainer: Namespace) -> None:
    """Lets ``enable_progress_bar`` say no to a bar that an overlay lists: Lightning refuses the two together."""
    if trainer.get("enable_progress_bar") is False:
        trainer.callbacks = [
            callback
            for callback in trainer.get("callbacks") or ()
            if not issubclass(resolve_name(callback.class_path), ProgressBar)
        ]
