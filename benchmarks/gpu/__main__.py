"""A grounder at full size on a GPU, CG-STVG unless told otherwise.

`make bench-gpu`, or `python -m benchmarks.gpu` where there is no Makefile.

Inputs are random tensors and weights are random, so no video, no download and no data set are needed, nor any package
that reads them: torch, torchvision, timm, transformers, peft, jsonargparse and PyYAML are enough. Each part runs in a
process of its own and ends within some minutes. Without a GPU the same parts run in the miniature on the CPU, which
shows that they work and says nothing of a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import PRECISIONS, machine_of, with_scope, with_stand_in_text
from benchmarks.gpu.parts import PARTS, measured
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.throughput import write_throughput

EXPERIMENTS = Path("experiments")
NOT_A_GPU = "This is a CPU, and the miniature: it shows that the parts work, and says nothing of a GPU."
# By default: the overlay of the model, clips of a batch, frames of a clip, rows and columns, repeats.
SIZES: dict[str, tuple[str, int, list[int], list[int], int]] = {
    "cuda": ("cgstvg", 4, [32, 64], [420, 588], 10),
    "cpu": ("mini", 1, [2, 4], [64, 64], 1),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=SIZES, default=device)
    parser.add_argument("--model", type=Path, help="an overlay of a grounder; on a GPU CG-STVG at full size")
    parser.add_argument("--tuner", type=Path, default=EXPERIMENTS / "tuner/nst.yaml", help="an overlay of NST")
    parser.add_argument("--scope", type=Path, help="an overlay with other targets, of experiments/scope")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--clips", type=int, help="of a batch")
    parser.add_argument("--frames", type=int, nargs="+", help="lengths of a clip")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"))
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--minutes", type=float, default=5.0, help="after which a part is ended")
    parser.add_argument("--output", type=Path, help="the .json to write as well")
    parser.add_argument("--throughput", type=Path, help="the .yaml for `python -m stvg_nst workload` to write as well")
    options = parser.parse_args()
    model, clips, frames, size, repeats = SIZES[options.device]
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(
            with_stand_in_text(options.model or EXPERIMENTS / f"model/{model}.yaml", Path(folder)),
            with_scope(options.tuner, options.scope, Path(folder)),
            EXPERIMENTS / "tuner/full.yaml",
            options.device,
            tuple(options.precision),
            options.clips or clips,
            tuple(options.frames or frames),
            *(options.size or size),
            options.repeats or repeats,
        )
        content = conditions(plan, options.model or Path(model))
        print(", ".join(f"{name} {value}" for name, value in content.items() if value))
        content["parts"] = {}
        ended = []
        for part in options.part:
            content["parts"][part] = found = measured(part, plan, 60 * options.minutes)
            ended += [part] if found["ended"] else []
            if options.output is not None:
                options.output.parent.mkdir(parents=True, exist_ok=True)
                options.output.write_text(json.dumps(content, indent=1) + "\n")
        if options.throughput is not None:
            print(f"\n{write_throughput(options.throughput, content['machine'], content['parts'], plan)}")
    if ended:
        print(f"\nnot measured to the end: {', '.join(ended)}", file=sys.stderr)
    return bool(ended)


def conditions(plan: Plan, model: Path) -> dict[str, Any]:
    """What the numbers are of."""
    return {
        "machine": machine_of(plan.device),
        "torch": torch.__version__,
        "CUDA": torch.version.cuda if plan.device == "cuda" else None,
        "cores": os.cpu_count(),
        "model": model.stem,
        "repeats": plan.repeats,
        "seconds": "of the clock" if plan.device == "cuda" else "of the processor",
        "remark": "" if plan.device == "cuda" else NOT_A_GPU,
    }


if __name__ == "__main__":
    sys.exit(main())
