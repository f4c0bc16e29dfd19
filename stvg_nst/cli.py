"""The command line over Lightning: every run is YAML overlays plus overrides, and lives in one folder."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal

import torch
import yaml
from jsonargparse import ActionConfigFile, Namespace, set_parsing_settings
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from stvg_nst.arguments import seed
from stvg_nst.checkpoints import find_checkpoint, require_checkpoint, write_whole_checkpoints
from stvg_nst.configuration import read_yaml
from stvg_nst.interruption import GO_ON, Interruption, stopped_by_signals
from stvg_nst.models.cgstvg import CGSTVG
from stvg_nst.models.cgstvg.checkpoint import load_mdetr, load_official, load_roberta, load_video_swin
from stvg_nst.models.cgstvg.hub import RELEASES, fetch_release
from stvg_nst.models.weights import save_weights
from stvg_nst.nullspace import RankRule, check_rule
from stvg_nst.outputs import check_outputs
from stvg_nst.overlay_parser import OverlayParser
from stvg_nst.report.certificate import Certificate
from stvg_nst.results.run_folder import RunFile
from stvg_nst.resuming import Policy, Resumption
from stvg_nst.run_lock import alone_in_run
from stvg_nst.stopping import StoppedError
from stvg_nst.tuning.full import FullFineTuning
from stvg_nst.tuning.nst import NullSpaceTuning
from stvg_nst.tuning.nst.certify import certify
from stvg_nst.tuning.selection import Strategy, check_choice
from stvg_nst.tuning.survey import LayerSurvey, Order, check_suffix, survey_layers
from stvg_nst.types import BackboneFeatures, Batch

set_parsing_settings(docstring_parse_attribute_docstrings=True)

Split = Literal["train", "val", "test"]


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
        self.parser.save(self.config, folder / names[stage], overwrite=True, multifile=False)


class SeededCLI(LightningCLI):
    """Takes a seed that is a number, for it is recorded with the run: none that Lightning draws or leaves out."""

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--seed_everything", type=seed, default=self.seed_everything_default, help="of all that is random"
        )


class ComponentsCLI(SeededCLI):
    """Builds the module and the data of a configuration; the run's seed reaches the data too."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("seed_everything", "data.init_args.seed")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        try:
            return super().instantiate_trainer(**kwargs)
        # Both are Lightning's, which checks names such as those of accelerators itself.
        except (MisconfigurationException, ValueError) as error:
            raise ValueError(f"--trainer: {error}") from error


class CacheCLI(ComponentsCLI):
    """`cache`: stores what the frozen visual encoders say of a data set."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        splits = ["train", "val", "test"]
        parser.add_argument("--splits", type=list[Split], default=splits, help="which splits to store")

    @torch.no_grad()
    def build(self) -> dict[str, Path]:
        """The folder of each split's cache; one that stands already is kept."""
        module: Any = self.model
        data: Any = self.datamodule
        module.to("cuda" if torch.cuda.is_available() else "cpu").eval()

        def encode(batch: Batch) -> BackboneFeatures:
            moved = batch.to(module.device)
            return module.grounder.encode(moved.frames, moved.frame_mask, moved.frame_sizes)

        data.prepare_data()
        backbones = module.backbone_fingerprint()
        return {split: data.build_cache(split, encode, backbones) for split in self.config.splits}


class LayersCLI(ComponentsCLI):
    """`layers`: lists the null space of every layer that a tuner could wrap, and what a strategy would choose."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--targets",
            type=list[str],
            default=list(FullFineTuning.scope),
            help="patterns of layers or modules; the default is what full fine-tuning trains, '*' the whole grounder",
        )
        parser.add_argument("--exclude", type=list[str], default=[], help="patterns of layers or modules to leave out")
        parser.add_argument("--rule", type=RankRule, default="exact", help="what counts as rank")
        parser.add_argument("--threshold", type=float | None, default=None, help="of rule relative or energy")
        parser.add_argument("--strategy", type=Strategy | None, default=None, help="mark the layers that it selects")
        parser.add_argument("--share", type=float, default=0.1, help="of the layers, for a strategy by nullity or draw")
        parser.add_argument("--sort", type=Order, default="model", help="order of the list")
        parser.add_argument("--output", type=Path | None, default=None, help="also write a .json or .csv file")

    def before_instantiate_classes(self) -> None:
        config = self.config
        check_choice(config.strategy or "all", config.share)
        check_rule(config.rule, config.threshold)
        if config.output is not None:
            check_suffix(config.output)
            check_outputs({"--output": config.output}, inputs=_read_by(self))

    def survey(self) -> LayerSurvey:
        """The candidates of the frozen grounder; random draws follow the run's seed, as a tuner's do."""
        module: Any = self.model
        config = self.config
        survey = survey_layers(
            module.grounder,
            config.targets,
            strategy=config.strategy,
            share=config.share,
            rule=config.rule,
            threshold=config.threshold,
            seed=int(config.seed_everything),
            exclude=config.exclude,
        ).ordered(config.sort)
        if config.output is not None:
            survey.write(config.output)
        return survey


class ExportCLI(ComponentsCLI):
    """`export`: writes a fully fine-tuned grounder as weights of its own."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--output", type=Path, required=True, help="the .safetensors file to write")
        parser.add_argument(
            "--precision",
            type=Literal["half", "single"],
            default="half",
            help="of the numbers; single to go on training from them, and to keep fitting a cache of features",
        )

    def export(self) -> Path:
        module: Any = self.model
        if not isinstance(module.tuner, FullFineTuning) or self.config.model.adapter is None:
            raise ValueError("only a fully fine-tuned grounder is exported: give its configuration and --model.adapter")
        check_outputs({"--output": self.config.output}, inputs=_read_by(self))
        dtype = torch.float16 if self.config.precision == "half" else torch.float32
        save_weights(self.config.output, module.grounder, dtype=dtype)
        return self.config.output


def _read_by(cli: ComponentsCLI) -> list[Path | str | None]:
    """The files that a command has built its model from."""
    model = cli.config.model
    return [*(config for config in cli.config.config or ()), model.weights, model.adapter, model.baseline]


class CertifyCLI(ComponentsCLI):
    """`certify`: measures what a finished run of null-space tuning leaves of the frozen model."""

    def certify(self, folder: Path, *, split: Literal["val", "test"], batches: int | None) -> Certificate:
        """The certificate of the run in ``folder``, whose components these are, on so many batches of a split or all.

        Raises:
            ValueError: the run is of another tuner, or the cached features are of other backbones.
        """
        module: Any = self.model
        data: Any = self.datamodule
        tuner = module.tuner
        if not isinstance(tuner, NullSpaceTuning):
            raise ValueError(
                f"expected a run of NullSpaceTuning in '{folder}', got one of {type(tuner).__name__}: no other method "
                "has a null branch to certify; compare its results by `python -m stvg_nst report`"
            )
        module.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        data.prepare_data()
        loader = data.evaluation_loader(split)
        module.check_backbones(data.cached_backbones)
        module.check_queries(split, {record.item_id: record.query for record in data.records[split]})
        moved = (batch.to(module.device) for batch in islice(loader, batches))
        layers, changes = certify(module.grounder, tuner, module.injection, moved)
        return Certificate(
            run=str(folder),
            adapter=hashlib.sha256((folder / RunFile.ADAPTER).read_bytes()).hexdigest(),
            gate=tuner.gate,
            forward_mode=tuner.forward_mode,
            basis=tuner.basis,
            dataset=data.conditions("test").dataset,
            split=split,
            data=data.provenance(),
            left_out=len(loader.sampler) - sum(change.count for change in changes if change.gate == "closed"),
            device=module.device.type,
            layers=layers,
            changes=changes,
        )


def finished_run(folder: Path) -> dict[str, Any]:
    """Seed, data and model of a finished fit, its adapter loaded, for a CLI without subcommands.

    What else ``config.yaml`` holds says how the fit ran and where to; it is of no use afterwards.

    Raises:
        FileNotFoundError: the folder does not hold a finished fit.
    """
    config, adapter = folder / RunFile.CONFIG, folder / RunFile.ADAPTER
    for path in (config, adapter):
        if not path.is_file():
            raise FileNotFoundError(
                f"expected the folder of a finished fit, with {RunFile.CONFIG} and {RunFile.ADAPTER}, but there "
                f"is no '{path}'; fit first (a zero-shot run leaves neither)"
            )
    content = read_yaml(config)
    # Older fits wrote a weight of the WAS down, which is no option of the model.
    model = {name: value for name, value in content["model"].items() if name != "lambda_hq"}
    # The baseline is another run's and may be gone; nothing here is compared with it.
    model |= {"adapter": str(adapter), "baseline": None}
    return {"seed_everything": content["seed_everything"], "data": content["data"], "model": model}


_LOGGER = "callbacks.Dashboard"
_TENSORBOARD = ("lightning.pytorch.loggers.TensorBoardLogger", _LOGGER)


@contextmanager
def _stoppable(go_on: str = GO_ON) -> Iterator[None]:
    """Says in one line why a command was stopped; of several processes the first one says it, and has the status."""
    with stopped_by_signals(go_on):
        try:
            yield
        except StoppedError as stopped:
            if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
                raise SystemExit(0) from stopped
            print(stopped.text, file=sys.stderr)
            raise


class RunCLI(ComponentsCLI):
    """`fit`, `validate` and `test`; `--run FOLDER` holds configuration, checkpoints, dashboard and results.

    Raises:
        StoppedError: the command ended before its work was done.
        CheckpointError: nothing can go on from what ``--ckpt_path`` names.
        BlockingIOError: another command works in the folder.
    """

    def __init__(self, **options: Any) -> None:
        with ExitStack() as self._held:
            self._held.enter_context(_stoppable())
            super().__init__(**options)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--run", type=str, required=True, help="folder of this run, e.g. runs/my-experiment")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {name: skipped for name, skipped in LightningCLI.subcommands().items() if name != "predict"}

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **options: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **options)
        if subcommand == "fit":
            parser.add_argument(
                "--changed_settings",
                type=Policy,
                default="refuse",
                help="what to do where the checkpoint to go on from was trained by other settings: refuse, or continue "
                "by the new ones",
            )
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses, and takes what the command works on: its folder, and the checkpoint to go on from."""
        super().parse_arguments(parser, args)
        stage = self.config.subcommand
        config = self.config[stage]
        if isinstance(config.trainer.callbacks, Namespace):
            config.trainer.callbacks = [config.trainer.callbacks]
        run = Path(config.run)
        self._held.enter_context(alone_in_run(run))
        self._checkpoint = find_checkpoint(config.ckpt_path, run, _checkpoint_folders(run, config.trainer), stage)
        if self._checkpoint is not None:
            require_checkpoint(self._checkpoint, stage, trusted=config.weights_only is False)
        if stage == "fit":
            # A wish of this command, and no setting to be found in the run's config.yaml and used again.
            self._policy, config.changed_settings = config.changed_settings, "refuse"

    def _parse_ckpt_path(self) -> None:
        """Lightning would add a checkpoint's hyper-parameters to the configuration; ours have none."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        _refuse_name_without_text(config.run)
        config.trainer.default_root_dir = config.run
        _refuse_bare_trainer(config.trainer)
        _refuse_other_logger(config.trainer.logger)
        _drop_unwanted_progress_bars(config.trainer)
        config.trainer.logger = Namespace(
            class_path=_LOGGER, init_args=Namespace(save_dir=config.run, name="", version="")
        )

    def instantiate_trainer(self, **options: Any) -> Trainer:
        trainer = super().instantiate_trainer(**options)
        write_whole_checkpoints(trainer)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        first: list[Callback] = [callback for callback in callbacks if isinstance(callback, RunConfig)]
        if self.subcommand == "fit":
            settings = yaml.safe_load(self._parser("fit").dump(self.config.fit, skip_none=False))
            trusted = self.config.fit.weights_only is False
            first.insert(0, Resumption(settings, self._checkpoint, self._policy, trusted=trusted))
        others = [callback for callback in callbacks if callback not in first]
        trainer.callbacks = [*first, *others, Interruption()]  # type: ignore[attr-defined]
        self.config_init[self.subcommand].ckpt_path = None if self._checkpoint is None else str(self._checkpoint)
        return trainer


def fit_encoders(trainer: Trainer, module: LightningModule, data: Any) -> None:
    """`encoders`: fits, or goes on where the same command was interrupted; its folder is that of its dashboard.

    Raises:
        StoppedError, CheckpointError, BlockingIOError: as :class:`RunCLI`.
    """
    run = Path(trainer.logger.log_dir if trainer.logger else trainer.default_root_dir)  # type: ignore[arg-type]
    go_on = "the same command goes on from"
    with _stoppable(go_on), alone_in_run(run):
        checkpoint = find_checkpoint("last", run, [run / RunFile.CHECKPOINTS], "encoders")
        if checkpoint is not None:
            require_checkpoint(checkpoint, "encoders")
        write_whole_checkpoints(trainer)
        trainer.callbacks = [*trainer.callbacks, Interruption(go_on)]  # type: ignore[attr-defined]
        trainer.fit(module, data, ckpt_path=checkpoint)


def _checkpoint_folders(run: Path, trainer: Namespace) -> list[Path]:
    chosen = [(callback.get("init_args") or {}).get("dirpath") for callback in trainer.callbacks or ()]
    return [run / RunFile.CHECKPOINTS, *(Path(folder) for folder in chosen if folder)]


def _refuse_name_without_text(run: str) -> None:
    """TensorBoard writes the names of its files as UTF-8, and would fail once the model is built.

    Raises:
        ValueError: the folder's name is no UTF-8.
    """
    try:
        run.encode()
    except UnicodeEncodeError:
        raise ValueError(f"--run {run}: the name of a run's folder must be UTF-8; choose another") from None


def _refuse_other_logger(logger: Any) -> None:
    """Whoever asks for another dashboard must not be given this one without a word.

    Raises:
        ValueError: it is neither left out nor TensorBoard's, as in the ``config.yaml`` of another run.
    """
    if logger not in (None, True) and getattr(logger, "class_path", None) not in _TENSORBOARD:
        wanted = getattr(logger, "class_path", logger)
        raise ValueError(
            f"--trainer.logger {wanted}: a run's dashboard is TensorBoard's, in the folder of --run, and what is drawn "
            "for it has no other place; leave the option out"
        )


def _refuse_bare_trainer(trainer: Namespace) -> None:
    """Lightning's measurement of bare speed allows neither dashboard nor checkpoints, which every run keeps.

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


FULL_SIZE = Path("experiments/model/cgstvg.yaml")
_TARGET = "the .safetensors file to write; it must not exist"


def convert(program: str, arguments: Sequence[str]) -> str:
    """`convert`: an official checkpoint as weights of ours; returns what was read from where, and written.

    Raises:
        WeightsMismatchError: the checkpoint does not fit the model.
        FileExistsError: the target exists, and ``--overwrite`` was not given.
        OSError: a release is neither in the hub's cache nor to be had.
    """
    parser = weights_parser(program, "Write an official CG-STVG checkpoint as weights of this suite.")
    parser.add_argument(
        "source", type=str, help=f"a .pth file of the official code, or a release to fetch: {', '.join(RELEASES)}"
    )
    parser.add_argument("target", type=Path, help=_TARGET)
    options = parser.parse_args(_with_full_size(arguments))
    _check_target(options, [] if options.source in RELEASES else [options.source])
    model = parser.instantiate(options).model.grounder
    path = fetch_release(options.source) if options.source in RELEASES else Path(options.source)
    report = load_official(path, model)
    save_weights(options.target, model)
    return f"{report}\nwritten to '{options.target}'"


def initialise(program: str, arguments: Sequence[str]) -> str:
    """`initialise`: the weights that CG-STVG's training starts from; returns what was read from where, and written.

    Raises:
        ValueError: nothing is given to start from.
        WeightsMismatchError: one of the checkpoints does not fit the model.
        FileExistsError: the target exists, and ``--overwrite`` was not given.
    """
    parser = weights_parser(program, "Write the weights that the training of CG-STVG starts from.")
    parser.add_argument("target", type=Path, help=_TARGET)
    parser.add_argument("--roberta", type=str, default=None, help="a folder, or a model's name on the Hugging Face hub")
    parser.add_argument("--video_swin", type=Path, default=None, help="swin_tiny_patch244_window877_kinetics400_1k.pth")
    parser.add_argument("--mdetr", type=Path, default=None, help="pretrained_resnet101_checkpoint.pth")
    parser.add_argument("--seed", type=seed, default=0, help="of the parts that start from random weights")
    options = parser.parse_args(_with_full_size(arguments))
    _check_target(options, [options.video_swin, options.mdetr])
    # MDETR last: its text encoder, which has seen captions, replaces RoBERTa's.
    loaders: list[tuple[Any, Any]] = [
        (load_roberta, options.roberta),
        (load_video_swin, options.video_swin),
        (load_mdetr, options.mdetr),
    ]
    chosen = [(load, source) for load, source in loaders if source is not None]
    if not chosen:
        raise ValueError("there is nothing to start from; give at least one of --roberta, --video_swin and --mdetr")
    seed_everything(options.seed, verbose=False)
    model = parser.instantiate(options).model.grounder
    reports = [load(source, model) for load, source in chosen]
    save_weights(options.target, model)
    return "\n".join([*map(str, reports), f"written to '{options.target}'"])


def weights_parser(program: str, description: str) -> OverlayParser:
    """Options of a command that builds CG-STVG, by default at full size, to write its weights."""
    parser = OverlayParser(prog=program, description=description, allow_abbrev=False)
    parser.add_argument("--config", action=ActionConfigFile, help=f"a model overlay; {FULL_SIZE} if none is given")
    parser.add_subclass_arguments(CGSTVG, "model.grounder", required=True)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing target")
    return parser


def _with_full_size(arguments: Sequence[str]) -> list[str]:
    given = any(argument.startswith("--config") for argument in arguments)
    return [*arguments] if given else [f"--config={FULL_SIZE}", *arguments]


def _check_target(options: Namespace, sources: Sequence[Path | str | None]) -> None:
    read = [*sources, *(config for config in options.config or ())]
    check_outputs({"the target": options.target}, inputs=read, replace=options.overwrite)
