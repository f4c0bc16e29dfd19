"""`share`: the adapter of a finished run as a folder that others can load, and on to the Hugging Face hub."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stvg_nst.command_line.arguments import CommandParser
from stvg_nst.configuration import read_yaml
from stvg_nst.machine.outputs import check_folder_is_writable
from stvg_nst.machine.whole_files import whole_file, write_whole
from stvg_nst.prediction.loading import SHIPPED, ModelSource, find_source
from stvg_nst.report.certificate import certificate_of, to_json
from stvg_nst.results.run_folder import RunFile
from stvg_nst.sharing import PREFIX, check_name, send
from stvg_nst.sharing.card import BEGINNING, Shared, model_card
from stvg_nst.sharing.hub import CARD, CONFIG, FILES
from stvg_nst.tuning.adapter import read_adapter_config


def share(arguments: Sequence[str], program: str) -> int:
    parser = CommandParser(
        prog=program,
        description="Send the adapter of a finished run to the Hugging Face hub, with a model card. `hf auth login` "
        "says who you are. Frozen weights and data stay here.",
    )
    parser.add_argument("run", type=Path, help="folder of a finished fit")
    parser.add_argument("name", help="user/name: its name on the hub")
    parser.add_argument("--baseline", type=Path, help="folder of the zero-shot test, for the WAS and its intervals")
    parser.add_argument(
        "--private", action="store_true", help="only you can see it; a repository that exists stays as it is"
    )
    parser.add_argument("--output", type=Path, help="write the folder here, and send nothing")
    options = parser.parse_args(arguments)
    check_name(options.name)
    if options.output is not None:
        check_folder_is_writable(options.output)
        base = write_shared(options.output, options.run, options.name, options.baseline)
        print(f"written to '{options.output}'; {_loading(str(options.output), base)} reads it")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        base = write_shared(Path(folder), options.run, options.name, options.baseline)
        address = send(Path(folder), options.name, private=options.private)
    reference = f"{PREFIX}{options.name}"
    print(f"sent: {address}\nload it with {_loading(reference, base)}, or --model.adapter {reference}")
    return 0


def write_shared(folder: Path, run: Path, name: str, baseline: Path | None) -> str | None:
    """Writes what is shared of a run into a folder: adapter, configuration, model card, and the certificate if any.

    Returns:
        The name of the frozen weights, where they come with the suite.

    Raises:
        FileNotFoundError: the run is not finished, or the baseline has left no results or tubes.
        FileExistsError: the folder holds files that are not from here.
        AdapterMismatchError, DescriptionError: its files are damaged.
        ValueError: its certificate is of another adapter, or the baseline does not compare.
    """
    source = find_source(run)
    if source.adapter is None:
        raise FileNotFoundError(f"'{run}' has tuned nothing: there is no '{run / RunFile.ADAPTER}'; fit first")
    needed = () if baseline is None else (baseline / RunFile.RESULTS, baseline / RunFile.PREDICTIONS)
    if lacking := next((file for file in needed if not file.is_file()), None):
        raise FileNotFoundError(
            f"there is no '{lacking}' to compare with; give the folder of the zero-shot test, or leave out --baseline"
        )
    certificate = certificate_of(run, source.adapter)
    if certificate is not None:
        certificate = replace(certificate, run=name)  # not by a path of this machine
    _refuse_other_files(folder)
    saved = read_adapter_config(source.adapter)
    base = _shipped_name(source)
    content = {
        "library_name": "stvg_nst",
        "base": base,
        "frozen": saved.frozen,
        "tuner": saved.tuner,
        "options": saved.fields,
        "description": json.loads(next(iter(source.description.to_metadata().values()))),
    }
    config: dict[str, Any] = dict(read_yaml(run / RunFile.CONFIG))
    network = config["model"]["grounder"]["class_path"].rpartition(".")[2]
    whose = "which comes with stvg_nst" if base else f"weights of {network} that you have to have"
    what = f"`{base or Path(config['model']['weights']).name}`, {whose}"
    how = _loading(f"{PREFIX}{name}", base)
    shared = Shared(name, how, saved.tuner, saved.fields, what, saved.frozen, config, certificate)
    card = model_card(shared, run, baseline)
    write_whole(folder / CONFIG, json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n")
    write_whole(folder / CARD, card)
    with whole_file(folder / RunFile.ADAPTER) as partial:
        shutil.copyfile(source.adapter, partial)
    if certificate is None:
        (folder / RunFile.CERTIFICATE).unlink(missing_ok=True)  # of what was shared before
    else:
        write_whole(folder / RunFile.CERTIFICATE, to_json(certificate))
    return base


def _refuse_other_files(folder: Path) -> None:
    """Keeps ``--output`` from replacing what this command has not written, such as the README.md of a project.

    Raises:
        FileExistsError: there is such a file.
    """
    card = folder / CARD
    is_own = card.is_file() and card.read_text(encoding="utf-8", errors="replace").startswith(BEGINNING)
    if not is_own and (there := [name for name in FILES if (folder / name).exists()]):
        raise FileExistsError(
            f"'{folder / there[0]}' is there, and `share` has not written it; give --output a folder of its own"
        )


def _loading(reference: str, base: str | None) -> str:
    """How an adapter is loaded in Python, over weights that come with the suite, or over a file that somebody has."""
    return f'load("{reference}")' if base else f'load("weights.safetensors", adapters={{"shared": "{reference}"}})'


def _shipped_name(source: ModelSource) -> str | None:
    """Of the weights, where they come with the suite; others must be had from elsewhere."""
    for name, folder in SHIPPED.items():
        if source.weights is not None and source.weights.resolve().parent == folder.resolve():
            return name
    return None
