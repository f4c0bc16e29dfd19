"""`layers`: the null space of every layer that a tuner could wrap, and what a strategy would choose."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from stvg_nst.commands.lightning_cli import BuiltCLI
from stvg_nst.machine.outputs import check_outputs
from stvg_nst.nullspace import RankRule, check_rule
from stvg_nst.tuning.selection import Strategy, check_choice
from stvg_nst.tuning.survey import LayerSurvey, Order, check_suffix, survey_layers


def layers(arguments: Sequence[str], program: str) -> int:
    print(LayersCLI(arguments, program).survey())
    return 0


class LayersCLI(BuiltCLI):
    """Options of the survey over those of the components, and the survey."""

    description = (
        "List the null space of every layer that a tuner can wrap, and mark the layers that a strategy selects. Takes "
        "the overlays of a run."
    )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument(
            "--targets",
            type=list[str] | None,
            default=None,
            help="patterns of layers or modules; by default all behind the encoders, '*' is the whole grounder",
        )
        parser.add_argument("--exclude", type=list[str], default=[], help="patterns of layers or modules to leave out")
        parser.add_argument("--rule", type=RankRule, default="exact", help="what counts as rank")
        parser.add_argument("--threshold", type=float | None, default=None, help="what rule relative or energy cuts at")
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
            check_outputs({"--output": config.output}, inputs=self.read_files())

    def survey(self) -> LayerSurvey:
        """The candidates of the frozen grounder; random draws follow the run's seed, as a tuner's do."""
        module: Any = self.model
        config = self.config
        survey = survey_layers(
            module.grounder,
            config.targets or module.grounder.tunable,
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
