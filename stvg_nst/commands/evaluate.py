"""`evaluate`: scores of the tubes of any model, from files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from stvg_nst import evaluation
from stvg_nst.command_line.arguments import CommandParser, count, seed, weight
from stvg_nst.machine.outputs import check_outputs
from stvg_nst.machine.whole_files import write_whole
from stvg_nst.report.evaluation import evaluation_sheet
from stvg_nst.report.sheet import print_sheet, sheet_console, sheet_markdown
from stvg_nst.results.was import LAMBDA_HQ


def evaluate(arguments: Sequence[str], program: str) -> int:
    parser = CommandParser(
        prog=program,
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
        "--lambda-hq", type=weight, help=f"weight of the drop on HQ in the WAS, eq. (8); default: {LAMBDA_HQ:g}"
    )
    parser.add_argument("--missing", choices=("error", "zero"), default="error", help="a sample without prediction")
    parser.add_argument("--unknown", choices=("error", "ignore"), default="error", help="a prediction without sample")
    parser.add_argument(
        "--bootstrap", type=count, default=0, metavar="N", help="replicates for 95 %% intervals; clips are drawn"
    )
    parser.add_argument("--seed", type=seed, help="of the bootstrap; default: 0")
    parser.add_argument("--json", type=Path, help="write every number to this file")
    parser.add_argument("--markdown", type=Path, help="also write the tables to this file")
    options = parser.parse_args(arguments)
    if options.lambda_hq is not None and options.baseline is None:
        parser.error("--lambda-hq is a weight of the WAS, and there is none without --baseline; give both")
    if options.seed is not None and not options.bootstrap:
        parser.error("--seed is that of the bootstrap; give --bootstrap N too")
    check_outputs(
        {"--json": options.json, "--markdown": options.markdown},
        inputs=(options.predictions, options.ground_truth, options.baseline),
    )
    result = evaluation.evaluate(
        evaluation.load_predictions(options.predictions),
        evaluation.load_ground_truth(options.ground_truth),
        baseline=None if options.baseline is None else evaluation.load_predictions(options.baseline),
        protocols=options.protocol,
        lambda_hq=LAMBDA_HQ if options.lambda_hq is None else options.lambda_hq,
        missing=options.missing,
        unknown=options.unknown,
        bootstrap=options.bootstrap,
        seed=options.seed or 0,
    )
    sheet = evaluation_sheet(result)
    if options.json is not None:
        write_whole(options.json, json.dumps(result.as_json(), indent=1, allow_nan=False) + "\n")
    if options.markdown is not None:
        write_whole(options.markdown, sheet_markdown(sheet))
    print_sheet(sheet, sheet_console())
    return 0
