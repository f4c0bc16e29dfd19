"""The command line over Lightning: every run is YAML overlays plus overrides, and lives in one folder."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import Namespace, set_parsing_settings
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

set_parsing_settings(docstring_parse_attribute_docstrings=True)


class RunConfig(SaveConfigCallback):
    """Keeps the configuration beside what came of it: `config.yaml` of a fit, `test.yaml` of a test."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        names = {"fit": "config.yaml", "validate": "validate.yaml", "test": "test.yaml"}
        self.parser.save(self.config, folder / names[stage], overwrite=True, multifile=False)


class ComponentsCLI(LightningCLI):
    """Builds the module and the data of a configuration; the run's seed reaches the data too."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.link_arguments("seed_everything", "data.init_args.seed")


class RunCLI(ComponentsCLI):
    """`fit`, `validate` and `test`; `--run FOLDER` holds configuration, checkpoints, dashboard and results."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--run", type=str, required=True, help="folder of this run, e.g. runs/my-experiment")

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        config.trainer.default_root_dir = config.run
        config.trainer.logger = Namespace(
            class_path="lightning.pytorch.loggers.TensorBoardLogger",
            init_args=Namespace(save_dir=config.run, name="", version=""),
        )
