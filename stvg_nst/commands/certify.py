"""`certify`: what a finished run of null-space tuning leaves of the frozen model, and what of it is guaranteed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.tensorboard import SummaryWriter

from stvg_nst.best_effort import BestEffort
from stvg_nst.command_line.arguments import CommandParser, positive_int
from stvg_nst.commands.lightning_cli import BuiltCLI
from stvg_nst.configuration import read_yaml
from stvg_nst.machine.outputs import check_outputs
from stvg_nst.machine.whole_files import write_whole
from stvg_nst.preflight import require_readable
from stvg_nst.report.certificate import Certificate, certificate_sheet, to_json
from stvg_nst.report.sheet import print_sheet, sheet_console, sheet_markdown
from stvg_nst.results.results_file import add_certificate, load_results
from stvg_nst.results.run_folder import RunFile
from stvg_nst.run_lock import alone_in_run
from stvg_nst.tuning.nst import NullSpaceTuning
from stvg_nst.tuning.nst.certify import certify as measure


def certify(arguments: Sequence[str], program: str) -> int:
    parser = CommandParser(
        prog=program,
        description="Measure how far a model tuned by null-space tuning is still the frozen one, and say what is "
        "guaranteed. docs/certificate.md explains the tables.",
    )
    parser.add_argument("run", type=Path, help="folder of a finished fit; call the command where the fit was called")
    parser.add_argument("--split", choices=("test", "val"), default="test", help="clips to look at (default: test)")
    parser.add_argument("--batches", type=positive_int, help="look only at this many batches (default: all)")
    parser.add_argument("--output", type=Path, help="the .json file to write; RUN/certificate.json unless given")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    options = parser.parse_args(arguments)
    config = finished_run(options.run)
    output = options.output or options.run / RunFile.CERTIFICATE
    read = [path for path in options.run.glob("*") if path.name != RunFile.CERTIFICATE]
    check_outputs({"--output": output}, inputs=read, replace=options.overwrite)
    results = options.run / RunFile.RESULTS
    if results.is_file():
        load_results(results)  # which gets the certificate too: one that is damaged must not come to light after it
    with alone_in_run(options.run):
        cli = CertifyCLI(config, program)
        certificate = cli.certify(options.run, split=options.split, batches=options.batches)
        write_whole(output, to_json(certificate))
        if results.is_file():
            write_whole(results, add_certificate(results.read_text(encoding="utf-8-sig"), asdict(certificate)))
        sheet = certificate_sheet(certificate)
        print_sheet(sheet, sheet_console())
        with BestEffort(f"the certificate in TensorBoard, '{options.run}'"), SummaryWriter(options.run) as dashboard:
            dashboard.add_text("certificate", sheet_markdown(sheet))
    return 1 if certificate.broken else 0


class CertifyCLI(BuiltCLI):
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
        require_readable(module.grounder, split, {record.item_id: record.query for record in data.records[split]})
        moved = (batch.to(module.device) for batch in islice(loader, batches))
        layers, changes, hq_null = measure(module.grounder, tuner, module.injection, moved, inference=module.inference)
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
            hq_null=hq_null,
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
