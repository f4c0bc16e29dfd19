"""`python -m stvg_nst COMMAND`: the composition root, the one place that knows methods, data and callbacks alike."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stvg_nst.arguments import CommandParser, count, nearest, positive_int, seed, weight
from stvg_nst.failures import Failures
from stvg_nst.shadows import refuse_shadows

if TYPE_CHECKING:
    from stvg_nst.report.clips import ShownClip

# Imports stand inside the commands: `report` and `--help` should not wait for torch.

_USAGE = """\
usage: python -m stvg_nst COMMAND [--help] ...

  fit, validate, test   run a grounder and a tuner on a data set, all three chosen by --config overlays
  cache                 store what the frozen visual encoders say of a data set
  layers                list the null space of every layer, and which of them a strategy selects
  data                  verify a data set's files, count what they hold, write degraded or decoded copies of them
  degrade               show what a degradation does to a video
  report                print the table of all results below a folder
  certify               measure what a null-space tuned model leaves of the frozen one, and what of it is guaranteed
  study                 run a grid of points and seeds, and compare its points
  budget                list what each point of a study adapts and trains, before any of it is trained
  choose                write down the settings that a search found best on the validation split
  tables                the paper's tables and figures out of the runs of a study
  evaluate              score the predictions of any model, from files, by the field's protocols

CG-STVG at full size (docs/weights.md):
  convert               write an official checkpoint as weights of ours
  initialise            write the weights that its training starts from: MDETR's, Video Swin's, RoBERTa's

to make the miniature grounder anew (`make pretrain` runs them in order):
  vocabulary            its tokenizer and text encoder's configuration
  encoders              pretrain its visual encoders
  grounding, boxes      pretrain its grounding model, and go on with its boxes (take the options of fit)
  export                write a fully fine-tuned grounder as weights of its own

COMMAND --help says more.
"""


def _run(arguments: Sequence[str]) -> int:
    """`fit`, `validate`, `test`; read from sys.argv, with which Lightning also starts the other processes of DDP."""
    from stvg_nst.cli import RunCLI, RunConfig

    cli = RunCLI(**{**_components(), **_run_options(RunConfig)})
    if cli.subcommand == "test" and cli.trainer.is_global_zero:
        _print_results(Path(cli.trainer.default_root_dir), cli.model.baseline)
    return 0


def _print_results(folder: Path, baseline: Any) -> None:
    """The table of a test that has left its results, beside the baseline's where one was given."""
    from stvg_nst.report import print_report
    from stvg_nst.results.run_folder import RunFile

    results = folder / RunFile.RESULTS
    if results.is_file():
        print_report([results] if baseline is None else [baseline.path, results])


def _grounding(arguments: Sequence[str]) -> int:
    from stvg_nst.pretraining import GroundingPretraining

    return _pretrain(GroundingPretraining)


def _boxes(arguments: Sequence[str]) -> int:
    from stvg_nst.pretraining import BoxPretraining

    return _pretrain(BoxPretraining)


def _pretrain(module: type) -> int:
    from stvg_nst.cli import RunCLI, RunConfig

    sys.argv.insert(1, "fit")
    RunCLI(**{**_components(), **_run_options(RunConfig), "model_class": module})
    return 0


def _cache(arguments: Sequence[str]) -> int:
    from stvg_nst.cli import CacheCLI

    for split, folder in CacheCLI(**_built("cache")).build().items():
        print(f"{split}: {folder}")
    return 0


def _layers(arguments: Sequence[str]) -> int:
    from stvg_nst.cli import LayersCLI

    print(LayersCLI(**_built("layers")).survey())
    return 0


def _export(arguments: Sequence[str]) -> int:
    from stvg_nst.cli import ExportCLI

    print(ExportCLI(**_built("export")).export())
    return 0


def _convert(arguments: Sequence[str]) -> int:
    from stvg_nst.cli import convert

    print(convert(_program("convert"), arguments))
    return 0


def _initialise(arguments: Sequence[str]) -> int:
    from stvg_nst.cli import initialise

    print(initialise(_program("initialise"), arguments))
    return 0


def _encoders(arguments: Sequence[str]) -> int:
    from datamodules import MiniScenes
    from stvg_nst.cli import SeededCLI, fit_encoders
    from stvg_nst.overlay_parser import OverlayParser
    from stvg_nst.pretraining import DensePretraining

    cli = SeededCLI(
        DensePretraining,
        MiniScenes,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        save_config_callback=None,
        parser_class=OverlayParser,
        parser_kwargs={"prog": _program("encoders"), "allow_abbrev": False},
        run=False,
    )
    fit_encoders(cli.trainer, cli.model, cli.datamodule)
    return 0


def _vocabulary(arguments: Sequence[str]) -> int:
    from datamodules.ministvg import all_sentences_sample
    from stvg_nst.models.cgstvg.vocabulary import write_stand_in, write_text_encoder
    from stvg_nst.outputs import check_folder_is_writable

    parser = CommandParser(prog=_program("vocabulary"), description="Train the miniature's tokenizer.")
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


def _data(arguments: Sequence[str]) -> int:
    from datamodules.data_commands import data_command

    return data_command(arguments, _program("data"))


def _degrade(arguments: Sequence[str]) -> int:
    from datamodules.degradation.severities import DEGRADATIONS
    from datamodules.degradation.video import degrade_video

    parser = CommandParser(prog=_program("degrade"), description="Degrade a video as the benchmark does.")
    parser.add_argument("source", type=Path, help="the video to read")
    parser.add_argument("target", type=Path, help="the .mp4 to write; it must not exist")
    parser.add_argument("--kind", choices=DEGRADATIONS, required=True)
    parser.add_argument("--severity", type=int, choices=range(1, 6), required=True, help="1 is mild, 5 is severe")
    parser.add_argument("--seed", type=seed, default=0, help="fixes what the severity leaves open, e.g. the angle")
    parser.add_argument("--kernels", choices=("relative", "absolute"), default="relative", help="to the frame's size")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing target")
    options = parser.parse_args(arguments)
    degrade_video(
        options.source,
        options.target,
        kind=options.kind,
        severity=options.severity,
        seed=options.seed,
        kernels=options.kernels,
        overwrite=options.overwrite,
    )
    return 0


def _report(arguments: Sequence[str]) -> int:
    from stvg_nst.report import report_folders
    from stvg_nst.results.metric_names import METRICS

    parser = CommandParser(prog=_program("report"), description="Compare all results below some folders.")
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="a run, or a folder that holds runs")
    parser.add_argument("--markdown", type=Path, help="also write the tables to this file")
    parser.add_argument("--html", type=Path, help="also write one page that holds all of it, to read offline")
    parser.add_argument(
        "--by-degradation",
        nargs="?",
        const="m_vIoU",
        choices=METRICS,
        metavar="METRIC",
        help="also show a metric, m_vIoU unless named, by kind and severity, with mean, worst and LQ relative to HQ",
    )
    options = parser.parse_args(arguments)
    return report_folders(options.folders, options.markdown, options.by_degradation, options.html)


def _study(arguments: Sequence[str]) -> int:
    from stvg_nst.report.study import report_study
    from stvg_nst.study.command import study_command

    return study_command(arguments, prog=_program("study"), report=report_study)


def _budget(arguments: Sequence[str]) -> int:
    parser = CommandParser(
        prog=_program("budget"),
        description="List the adapted layers, the trainable parameters and their share of each point of a study.",
    )
    parser.add_argument("study", type=Path, help="the study's .yaml")
    options = parser.parse_args(arguments)

    from stvg_nst.budget import budget_text
    from stvg_nst.study import read_studies

    print(budget_text(read_studies(options.study)[0]))
    return 0


def _choose(arguments: Sequence[str]) -> int:
    from stvg_nst.report.choice import choose_command

    return choose_command(arguments, prog=_program("choose"))


def _tables(arguments: Sequence[str]) -> int:
    from stvg_nst.report.tables import tables_command

    return tables_command(arguments, prog=_program("tables"), show=_shown_clip)


def _shown_clip(config: Mapping[str, Any], root: str | None, item_id: str, quality: str) -> ShownClip:
    """A sample of the data that a run's configuration names, from the folder ``root`` if given."""
    from jsonargparse import ArgumentParser

    from datamodules import STVGDataModule
    from stvg_nst.report.clips import ShownClip
    from stvg_nst.types import Quality

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(STVGDataModule, "data")
    changed = {"features": None} | ({} if root is None else {"root": root})
    settings = {**config["data"], "init_args": {**config["data"]["init_args"], **changed}}
    data = parser.instantiate(parser.parse_object({"data": settings})).data
    info = data.sample(item_id, Quality[quality])
    degradation = None if info.degradation is None else str(info.degradation)
    return ShownClip(data.pixels(info), info.frame_ids, info.native_length, info.query, degradation)


def _evaluate(arguments: Sequence[str]) -> int:
    from stvg_nst import evaluation
    from stvg_nst.outputs import check_outputs
    from stvg_nst.report.evaluation import evaluation_sheet
    from stvg_nst.report.sheet import print_sheet, sheet_console, sheet_markdown
    from stvg_nst.results.was import LAMBDA_HQ
    from stvg_nst.whole_files import write_whole

    parser = CommandParser(
        prog=_program("evaluate"),
        description="Score predicted tubes against true ones. docs/evaluation.md is the manual of the files.",
    )
    parser.add_argument("predictions", type=Path, help="predictions.json of any model")
    parser.add_argument("ground_truth", type=Path, help="ground_truth.json that they are for")
    parser.add_argument("--baseline", type=Path, help="predictions of the zero-shot model: adds differences and WAS")
    parser.add_argument(
        "--protocol",
        action="append",
        choices=evaluation.PROTOCOLS,
        help="may be repeated, the first is shown in full; all that the ground truth allows if left out",
    )
    parser.add_argument(
        "--lambda-hq", type=weight, default=LAMBDA_HQ, help="weight of the drop on HQ in the WAS, eq. (8)"
    )
    parser.add_argument("--missing", choices=("error", "zero"), default="error", help="a sample without prediction")
    parser.add_argument("--unknown", choices=("error", "ignore"), default="error", help="a prediction without sample")
    parser.add_argument(
        "--bootstrap", type=count, default=0, metavar="N", help="replicates for 95 %% intervals; clips are drawn"
    )
    parser.add_argument("--seed", type=seed, default=0, help="of the bootstrap")
    parser.add_argument("--json", type=Path, help="write every number to this file")
    parser.add_argument("--markdown", type=Path, help="also write the tables to this file")
    options = parser.parse_args(arguments)
    check_outputs(
        {"--json": options.json, "--markdown": options.markdown},
        inputs=(options.predictions, options.ground_truth, options.baseline),
    )
    result = evaluation.evaluate(
        evaluation.load_predictions(options.predictions),
        evaluation.load_ground_truth(options.ground_truth),
        baseline=None if options.baseline is None else evaluation.load_predictions(options.baseline),
        protocols=options.protocol,
        lambda_hq=options.lambda_hq,
        missing=options.missing,
        unknown=options.unknown,
        bootstrap=options.bootstrap,
        seed=options.seed,
    )
    sheet = evaluation_sheet(result)
    if options.json is not None:
        write_whole(options.json, json.dumps(result.as_json(), indent=1, allow_nan=False) + "\n")
    if options.markdown is not None:
        write_whole(options.markdown, sheet_markdown(sheet))
    print_sheet(sheet, sheet_console())
    return 0


def _certify(arguments: Sequence[str]) -> int:
    parser = CommandParser(
        prog=_program("certify"),
        description="Measure what a run of null-space tuning leaves of the frozen model. See docs/certificate.md.",
    )
    parser.add_argument("run", type=Path, help="folder of a finished fit, run from where it was fitted")
    parser.add_argument("--split", choices=("test", "val"), default="test")
    parser.add_argument("--batches", type=positive_int, help="look at so many batches only")
    parser.add_argument("--json", type=Path, help="the file to write; RUN/certificate.json unless given")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    options = parser.parse_args(arguments)

    from dataclasses import asdict

    from torch.utils.tensorboard import SummaryWriter

    from stvg_nst.best_effort import BestEffort
    from stvg_nst.cli import CertifyCLI, finished_run
    from stvg_nst.outputs import check_outputs
    from stvg_nst.report.certificate import certificate_sheet, to_json
    from stvg_nst.report.sheet import print_sheet, sheet_console, sheet_markdown
    from stvg_nst.results.results_file import add_certificate, load_results
    from stvg_nst.results.run_folder import RunFile
    from stvg_nst.run_lock import alone_in_run
    from stvg_nst.whole_files import write_whole

    config = finished_run(options.run)
    output = options.json or options.run / RunFile.CERTIFICATE
    read = [path for path in options.run.glob("*") if path.name != RunFile.CERTIFICATE]
    check_outputs({"--json": output}, inputs=read, replace=options.overwrite)
    results = options.run / RunFile.RESULTS
    if results.is_file():
        load_results(results)  # which gets the certificate too: one that is damaged must not come to light after it
    sys.argv = sys.argv[:1]  # the configuration is the run's; LightningCLI warns of arguments that it is not to read
    with alone_in_run(options.run):
        cli = CertifyCLI(**_built("certify"), args=config)
        certificate = cli.certify(options.run, split=options.split, batches=options.batches)
        write_whole(output, to_json(certificate))
        if results.is_file():
            write_whole(results, add_certificate(results.read_text(encoding="utf-8-sig"), asdict(certificate)))
        sheet = certificate_sheet(certificate)
        print_sheet(sheet, sheet_console())
        with BestEffort(f"the certificate in TensorBoard, '{options.run}'"), SummaryWriter(options.run) as dashboard:
            dashboard.add_text("certificate", sheet_markdown(sheet))
    return 1 if certificate.broken else 0


_COMMANDS = {
    "fit": _run,
    "validate": _run,
    "test": _run,
    "cache": _cache,
    "layers": _layers,
    "export": _export,
    "convert": _convert,
    "initialise": _initialise,
    "encoders": _encoders,
    "grounding": _grounding,
    "boxes": _boxes,
    "vocabulary": _vocabulary,
    "data": _data,
    "degrade": _degrade,
    "report": _report,
    "study": _study,
    "budget": _budget,
    "choose": _choose,
    "tables": _tables,
    "evaluate": _evaluate,
    "certify": _certify,
}


def _components() -> dict[str, Any]:
    """What every configuration chooses from; importing the packages makes their classes known by name."""
    import callbacks  # noqa: F401
    from datamodules import STVGDataModule
    from stvg_nst.module import GroundingModule
    from stvg_nst.overlay_parser import OverlayParser

    return {
        "model_class": GroundingModule,
        "datamodule_class": STVGDataModule,
        "subclass_mode_data": True,
        "seed_everything_default": 0,
        "auto_configure_optimizers": False,
        "load_from_checkpoint_support": False,
        "parser_class": OverlayParser,
    }


def _built(command: str) -> dict[str, Any]:
    """Components that are built, and then used by something else than a trainer."""
    return {
        **_components(),
        "run": False,
        "save_config_callback": None,
        "parser_kwargs": {"prog": _program(command), "allow_abbrev": False},
    }


def _run_options(run_config: type) -> dict[str, Any]:
    return {
        "save_config_callback": run_config,
        "save_config_kwargs": {"save_to_log_dir": False},
        # A shortened option would be taken for the full one, and a misspelt one with it.
        "parser_kwargs": {
            "prog": "python -m stvg_nst",
            "allow_abbrev": False,
            **{stage: {"allow_abbrev": False} for stage in ("fit", "validate", "test")},
        },
    }


def _program(command: str) -> str:
    return f"python -m stvg_nst {command}"


def _command(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if arguments else 2
    if arguments[0] not in _COMMANDS:
        hint = nearest(arguments[0], _COMMANDS)
        print(f"error: unknown command '{arguments[0]}'{hint}; see {_program('--help')}", file=sys.stderr)
        return 2
    run = _COMMANDS[arguments[0]]
    if run is not _run:
        sys.argv = [sys.argv[0], *arguments[1:]]
    refuse_shadows()
    return run(arguments[1:])


def main() -> int:
    with Failures() as failures:
        failures.status = _command(sys.argv[1:])
    return failures.status


if __name__ == "__main__":
    sys.exit(main())
