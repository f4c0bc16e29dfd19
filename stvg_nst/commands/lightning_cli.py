"""What the commands over Lightning share: a grounder, a tuner and a data set, chosen by YAML overlays and options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import set_parsing_settings
from lightning import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from stvg_nst.command_line.arguments import seed
from stvg_nst.commands.console import without_chatter

set_parsing_settings(docstring_parse_attribute_docstrings=True)


class SeededCLI(LightningCLI):
    """Takes a number as the seed, which is recorded with the run. Lightning would also draw one, or set none."""

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--seed_everything", type=seed, default=self.seed_everything_default, help="seed of everything random"
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Reads what a command was given. Lightning does too, but warns that ``sys.argv`` is not empty."""
        self.config = parser.parse_object(args) if isinstance(args, dict) else parser.parse_args(args)


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


class BuiltCLI(ComponentsCLI):
    """Components that are built, and then used by something else than a trainer.

    Args:
        arguments: of the command line, or a whole configuration.
        program: how the command is called, for its help.
    """

    description: str | None = None
    """What the command does, for its help."""

    def __init__(self, arguments: Sequence[str] | Mapping[str, Any], program: str) -> None:
        with without_chatter():  # about the devices of a trainer that nobody uses
            super().__init__(
                **components(),
                run=False,
                save_config_callback=None,
                parser_kwargs={"prog": program, "allow_abbrev": False, "description": self.description},
                args=dict(arguments) if isinstance(arguments, Mapping) else [*arguments],
            )

    def read_files(self) -> list[Path | str | None]:
        """The files that the model was built from."""
        model = self.config.model
        return [*(config for config in self.config.config or ()), model.weights, model.adapter, model.baseline]


def components() -> dict[str, Any]:
    """What every configuration chooses from; importing the packages makes their classes known by name."""
    import callbacks  # noqa: F401
    from datamodules import STVGDataModule
    from stvg_nst.command_line.overlay_parser import OverlayParser
    from stvg_nst.module import GroundingModule

    return {
        "model_class": GroundingModule,
        "datamodule_class": STVGDataModule,
        "subclass_mode_data": True,
        "seed_everything_default": 0,
        "auto_configure_optimizers": False,
        "load_from_checkpoint_support": False,
        "parser_class": OverlayParser,
    }
