"""Answers of every grounder to fixed frames under fixed weights, to be compared with those of earlier days.

`python -m tests.stvg_nst.models.drift` writes `drift.json` anew: only after a change that is meant to move numbers.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from stvg_nst.commands.weights import FULL_SIZE, weights_parser
from stvg_nst.models import CGSTVG, Grounder, TubeDETR
from stvg_nst.models.blocks import ImageEncoder, TextEncoder
from stvg_nst.models.blocks.vocabulary import write_stand_in
from stvg_nst.models.cgstvg import VideoEncoder
from stvg_nst.models.weights import load_weights

FILE = Path(__file__).with_name("drift.json")
MINI = Path("stvg_nst/models/mini")
QUERIES = ("the small red star jumps up and down", "what large thing spins?")
SIZES = ((64, 96), (96, 64))
LENGTHS = (5, 3)
Answer = dict[str, list]


def small() -> CGSTVG:
    """Every kind of layer of the full size, at a fraction of it; its context thresholds let some frames through."""
    return CGSTVG(
        ImageEncoder("resnet18", 4, {"channels": [8, 16, 24, 32]}, frozen_norm=True),
        VideoEncoder(width=12, depths=(2, 2, 2, 2), num_heads=(1, 2, 3, 6), window=(4, 3, 3)),
        TextEncoder(str(MINI), 32),
        num_heads=4,
        hidden=64,
        encoder_depth=2,
        decoder_depth=3,
        actioness_threshold=0.0,
        confidence_threshold=1.0,
    )


def small_tubedetr() -> TubeDETR:
    """The same of TubeDETR: slow frames, and others that the fast branch corrects."""
    visual = ImageEncoder("resnet18", 4, {"channels": [8, 16, 24, 32]}, frozen_norm=True)
    text = TextEncoder(str(MINI), 32, lower_case=False)
    return TubeDETR(visual, text, stride=2, num_heads=4, hidden=64, encoder_depth=2, decoder_depth=3)


def full_size(overlay: Path = FULL_SIZE) -> Grounder:
    with tempfile.TemporaryDirectory() as folder:
        write_stand_in(["a man runs"], Path(folder))
        parser = weights_parser("drift", "Full size.")
        source = f"--model.grounder.init_args.text.init_args.source={folder}"
        return parser.instantiate(parser.parse_args([f"--config={overlay}", source])).model.grounder


def miniature() -> CGSTVG:
    parser = weights_parser("drift", "The miniature that the package ships.")
    grounder = parser.instantiate(parser.parse_args(["--config=experiments/model/mini.yaml"])).model.grounder
    load_weights(MINI / "model.safetensors", grounder)
    return grounder


MODELS: dict[str, Callable[[], Grounder]] = {
    "miniature": miniature,
    "small": lambda: by_name(small()),
    "full size": lambda: by_name(full_size()),
    "small TubeDETR": lambda: by_name(small_tubedetr()),
    "full size TubeDETR": lambda: by_name(full_size(Path("experiments/model/tubedetr.yaml"))),
}


def by_name(model: Grounder) -> Grounder:
    """Weights that depend on nothing but their names and shapes."""
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(value.shape))
        if name.endswith("running_var"):
            values = 1 + 0.1 * abs(noise)
        elif value.ndim == 1:
            # Norms of a residual network's branches below one, or its 33 sums would grow without end.
            scale = 0.0 if not name.endswith("weight") else 0.3 if name.startswith("visual.") else 1.0
            values = scale + 0.05 * noise
        else:
            values = noise * (2 / np.prod(value.shape[1:])) ** 0.5
        value.copy_(torch.from_numpy(values))
    return model


@torch.no_grad()
def answer(model: nn.Module, device: str = "cpu") -> Answer:
    """Of two clips of different lengths and sizes, the last stage's on real frames."""
    pixels = np.random.RandomState(0).standard_normal((2, max(LENGTHS), 3, 96, 96))
    frames = torch.from_numpy(pixels).float().to(device)
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).to(device)
    output = model.to(device).eval()(frames, mask, QUERIES, SIZES)
    return {name: value[-1][mask].double().cpu().numpy().round(6).tolist() for name, value in output.answers.items()}


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: answer(build()) for name, build in MODELS.items()}, indent=1) + "\n")
