"""What kept encodings save where only the decoders are tuned: `make bench-encodings`.

Times the grounding model of the miniature on random backbone features, as `make bench-tuning` does: CPU seconds of one
thread, rows take turns, medians and their ratios within one run. Encodings are read from a temporary folder, and so
from the machine's page cache, as those of a small tuning set are in every epoch except the first.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from functools import partial
from pathlib import Path

import torch
import yaml

from benchmarks.cases import build_parts
from benchmarks.timing import timed
from benchmarks.tuning import Row, encode, infer, make_frames, training_step
from stvg_nst.models.encoding_store import EncodingStore
from stvg_nst.models.weights import modules_fingerprint
from stvg_nst.tuning import LoRA

MODEL, TUNER = Path("experiments/model/mini.yaml"), Path("experiments/tuner/nst.yaml")
SCOPE = Path("experiments/scope/decoder.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--clips", type=int, default=16, help="of a batch")
    parser.add_argument("--size", type=int, default=128, help="of a frame, in pixels")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    grounder, _ = build_parts(MODEL, TUNER)
    frames, mask = make_frames(options)
    features = encode(grounder, frames, mask)
    qualities = torch.arange(options.clips) % 2
    targets = tuple(yaml.safe_load(SCOPE.read_text())["model"]["tuner"]["init_args"]["targets"])

    def row(name: str) -> Row:
        model, tuner = copy.deepcopy(grounder), LoRA(targets=targets, rank=64, alpha=64)
        tuner.inject(model)
        return Row(name, model, tuner)

    with tempfile.TemporaryDirectory() as folder:
        rows = [row("encoded anew"), row("kept encodings")]
        rows[1].grounder.keep_encodings(EncodingStore(folder, modules_fingerprint(grounder.fusion())))
        steps = timed({row.name: training_step(row, features, mask, qualities) for row in rows}, options.repeats)
        answers = timed({row.name: partial(infer, row, features, mask) for row in rows}, options.repeats)
    print(f"LoRA in the decoders, {options.clips} clips of {options.frames} frames, 1 thread")
    print(f"{'':16} {'training step':>15} {'inference':>15}")
    for name in steps:
        print(f"{name:16} {1e3 * steps[name].median:12.1f} ms {1e3 * answers[name].median:12.1f} ms")
    ratios = [seconds["encoded anew"].median / seconds["kept encodings"].median for seconds in (steps, answers)]
    print(f"{'saved, times':16} {ratios[0]:15.2f} {ratios[1]:15.2f}")


if __name__ == "__main__":
    main()
