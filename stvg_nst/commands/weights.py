"""`convert`, `initialise` and `export`: commands that write the weights of a grounder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ActionConfigFile, Namespace
from lightning import seed_everything
from lightning.pytorch.cli import LightningArgumentParser

from datamodules import STVGDataModule
from stvg_nst.command_line.arguments import seed
from stvg_nst.command_line.overlay_parser import OverlayParser
from stvg_nst.commands.lightning_cli import BuiltCLI
from stvg_nst.inference import InferenceProtocol
from stvg_nst.machine.outputs import check_outputs
from stvg_nst.models import CGSTVG, TubeDETR
from stvg_nst.models.cgstvg import checkpoint as cgstvg
from stvg_nst.models.cgstvg.hub import RELEASES, fetch_release
from stvg_nst.models.description import ModelDescription
from stvg_nst.models.foreign_checkpoint import load_roberta
from stvg_nst.models.tubedetr import checkpoint as tubedetr
from stvg_nst.models.weights import save_weights
from stvg_nst.prediction.exported import export_tuned
from stvg_nst.prediction.loading import ModelSource, build, load
from stvg_nst.prediction.network import Network
from stvg_nst.prediction.program import as_program, save_program
from stvg_nst.prediction.viewing import viewing_of
from stvg_nst.tuning.base import TunedLayer, replace_modules

FULL_SIZE = Path("experiments/model/cgstvg.yaml")
_ORIGINALS: Mapping[type, Any] = {CGSTVG: cgstvg, TubeDETR: tubedetr}  # what reads the checkpoints of each
_TARGET = "the .safetensors file to write; it must not exist"


def convert(arguments: Sequence[str], program: str) -> int:
    """Writes an official checkpoint as weights of ours, and says what was read from where.

    With an overlay of data, such as ``experiments/data/hcstvg_v1.yaml``, the file says how its network is shown a clip,
    and ``predict`` answers with it.

    Raises:
        WeightsMismatchError: the checkpoint does not fit the model.
        FileExistsError: the target exists, and ``--overwrite`` was not given.
        OSError: a release is neither in the hub's cache nor to be had.
        ValueError: the model is not made for the way in which `predict` is to show it a clip.
    """
    parser = weights_parser(program, "Write an official checkpoint of CG-STVG or TubeDETR as weights of this suite.")
    parser.add_argument(
        "source",
        type=str,
        help=f"a .pth file of the official code, or a release of CG-STVG to fetch: {', '.join(RELEASES)}",
    )
    parser.add_argument("target", type=Path, help=_TARGET)
    parser.add_subclass_arguments(STVGDataModule, "data", required=False)
    parser.add_argument(
        "--model.inference", type=InferenceProtocol, default="single_pass", help="how `predict` shows it a clip"
    )
    options = parser.parse_args(_with_full_size(arguments))
    _check_target(options, [] if options.source in RELEASES else [options.source])
    built = parser.instantiate(options)
    model, data = built.model.grounder, built.get("data")
    model.require_inference(options.model.inference)
    is_release = isinstance(model, CGSTVG) and options.source in RELEASES
    path = fetch_release(options.source) if is_release else Path(options.source)
    report = _ORIGINALS[type(model)].load_official(path, model)
    description = None
    if data is not None:
        viewing = viewing_of(data, options.model.inference)
        description = ModelDescription(options.model.grounder.as_dict(), viewing)
    save_weights(options.target, model, description=description)
    print(f"{report}\nwritten to '{options.target}'")
    return 0


def initialise(arguments: Sequence[str], program: str) -> int:
    """Writes the weights that the training of a full-size model starts from, and says what was read from where.

    Raises:
        ValueError: nothing is given to start from, or a video encoder for a model that has none.
        WeightsMismatchError: one of the checkpoints does not fit the model.
        FileExistsError: the target exists, and ``--overwrite`` was not given.
    """
    parser = weights_parser(program, "Write the weights that the training of CG-STVG or TubeDETR starts from.")
    parser.add_argument("target", type=Path, help=_TARGET)
    parser.add_argument("--roberta", type=str, default=None, help="a folder, or a model's name on the Hugging Face hub")
    parser.add_argument("--video-swin", type=Path, default=None, help="swin_tiny_patch244_window877_kinetics400_1k.pth")
    parser.add_argument("--mdetr", type=Path, default=None, help="pretrained_resnet101_checkpoint.pth")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the parts that start from random weights")
    options = parser.parse_args(_with_full_size(arguments))
    _check_target(options, [options.video_swin, options.mdetr])
    if options.roberta is options.video_swin is options.mdetr is None:
        raise ValueError("there is nothing to start from; give at least one of --roberta, --video-swin and --mdetr")
    seed_everything(options.seed, verbose=False)
    model = parser.instantiate(options).model.grounder
    if options.video_swin is not None and not hasattr(model, "motion"):
        raise ValueError(f"{type(model).__name__} has no video encoder; leave out --video-swin")
    # MDETR last: its text encoder, which has seen captions, replaces RoBERTa's.
    loaders: list[tuple[Any, Any]] = [
        (load_roberta, options.roberta),
        (cgstvg.load_video_swin, options.video_swin),
        (_ORIGINALS[type(model)].load_mdetr, options.mdetr),
    ]
    reports = [load(source, model) for load, source in loaders if source is not None]
    save_weights(options.target, model)
    print(*reports, f"written to '{options.target}'", sep="\n")
    return 0


def weights_parser(program: str, description: str) -> OverlayParser:
    """Options of a command that builds a grounder, by default CG-STVG at full size, to write its weights."""
    parser = OverlayParser(prog=program, description=description, allow_abbrev=False)
    parser.add_argument("--config", action=ActionConfigFile, help=f"a model overlay; {FULL_SIZE} if none is given")
    parser.add_subclass_arguments(tuple(_ORIGINALS), "model.grounder", as_group=False, required=True)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing target")
    return parser


def _with_full_size(arguments: Sequence[str]) -> list[str]:
    given = any(argument.startswith("--config") for argument in arguments)
    return [*arguments] if given else [f"--config={FULL_SIZE}", *arguments]


def _check_target(options: Namespace, sources: Sequence[Path | str | None]) -> None:
    read = [*sources, *(config for config in options.config or ())]
    check_outputs({"the target": options.target}, inputs=read, replace=options.overwrite)


def export(arguments: Sequence[str], program: str) -> int:
    """Writes a tuned grounder as one file, and says where."""
    print(ExportCLI(arguments, program).export())
    return 0


class ExportCLI(BuiltCLI):
    """`export`: writes a tuned grounder as one file, for `predict` and :func:`stvg_nst.load`."""

    description = (
        "Write a tuned grounder as one file, for predict and for Python. Takes the overlays of its run, and "
        "--model.adapter."
    )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--output", type=Path, required=True, help="the .safetensors file to write")
        parser.add_argument(
            "--precision",
            type=Literal["half", "single"],
            default="half",
            help="of the exported numbers: single to train on from them, or to keep fitting a cache of features",
        )
        parser.add_argument(
            "--program", type=Path | None, default=None, help="also write what follows the visual encoders as a .pt2"
        )
        parser.add_argument("--overwrite", action="store_true", help="replace existing files")

    def export(self) -> Path:
        """What can be multiplied into the weights becomes plain weights; a gate stays one, and is hard.

        Raises:
            ValueError: nothing was tuned, or the gate is the true quality of a clip.
            FileExistsError: a file is there already, and ``--overwrite`` was not given.
        """
        module: Any = self.model
        model = self.config.model
        if model.adapter is None:
            raise ValueError("a tuned grounder is exported: give the run's configuration and --model.adapter FILE")
        outputs = {"--output": self.config.output, "--program": self.config.program}
        check_outputs(outputs, inputs=self.read_files(), replace=self.config.overwrite)
        dtype = torch.float16 if self.config.precision == "half" else torch.float32
        description = ModelDescription(model.grounder.as_dict(), viewing_of(self.datamodule, module.inference))
        tuned = [layer for layer in module.grounder.modules() if isinstance(layer, TunedLayer)]
        if all(type(layer).merged is not TunedLayer.merged for layer in tuned):
            replace_modules(module.grounder, {layer: layer.merged() for layer in tuned})
            save_weights(self.config.output, module.grounder, dtype=dtype, description=description)
        else:
            weights = None if model.weights == "random" else Path(model.weights)
            source = ModelSource("", description, weights, seed=int(self.config.seed_everything))
            frozen = Network(build(source).eval(), None, module.inference, torch.float32)
            export_tuned(self.config.output, frozen, Path(model.adapter), description, dtype=dtype)
        if self.config.program is not None:
            save_program(self.config.program, as_program(load(self.config.output, device="cpu").network))
        return self.config.output
