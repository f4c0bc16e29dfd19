"""How long an evaluation takes at VidSTG's size: `make bench-evaluate`.

As many tubes as VidSTG has test sentences, with lengths like those of its annotations (median 110 frames, mean 276);
the predictions are the true tubes, shifted in time and space. Prints seconds of processor time, one thread.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is loaded

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stvg_nst.evaluation import (
    evaluate,
    load_ground_truth,
    load_predictions,
    render_ground_truth,
    render_predictions,
)
from stvg_nst.results.run_folder import RunFile

NUM_TUBES = 10_303
MEDIAN_LENGTH, LOG_SPREAD, LONGEST = 110, 1.36, 5_400  # a log-normal of mean 276
SAMPLED_FRAMES = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tubes", type=int, default=NUM_TUBES)
    parser.add_argument(
        "--decimals", type=int, default=2, help="of a coordinate; 15 is what the suite's own test writes"
    )
    parser.add_argument("--bootstrap", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder), options.tubes, options.decimals)
        sizes = [f"{path.stat().st_size / 2**20:.0f} MiB" for path in files]
        start = time.process_time()
        predictions = timed(f"read the predictions, {sizes[0]}", lambda: load_predictions(files[0]))
        truth = timed(f"read the ground truth, {sizes[1]}", lambda: load_ground_truth(files[1]))
    result = timed("evaluate by every protocol", lambda: evaluate(predictions, truth))
    print(f"{time.process_time() - start:6.2f} s  in all, {len(truth.tubes)} tubes with {len(truth.tubes.boxes)} boxes")
    timed(
        f"the same with a baseline and {options.bootstrap} replicates",
        lambda: evaluate(predictions, truth, baseline=predictions, bootstrap=options.bootstrap),
    )
    for protocol, numbers in result.protocols.items():
        print(f"{protocol:10} m_tIoU {numbers.metrics['HQ/m_tIoU']:.2f}  m_vIoU {numbers.metrics['HQ/m_vIoU']:.2f}")


def timed(label: str, work: Callable[[], Any]) -> Any:
    start = time.process_time()
    result = work()
    print(f"{time.process_time() - start:6.2f} s  {label}")
    return result


def write_files(folder: Path, num_tubes: int, decimals: int) -> tuple[Path, Path]:
    """Writes predictions and ground truth, half of the tubes in low quality."""
    paths = folder / RunFile.PREDICTIONS, folder / RunFile.GROUND_TRUTH
    paths[0].write_text(render_predictions("Shifted", synthetic_tubes(num_tubes, decimals, predicted=True)))
    paths[1].write_text(render_ground_truth("Synthetic", "test", synthetic_tubes(num_tubes, decimals, predicted=False)))
    return paths


def synthetic_tubes(num_tubes: int, decimals: int, *, predicted: bool) -> Iterator[dict[str, Any]]:
    for index in range(num_tubes):
        generator = np.random.default_rng(index)
        length = int(np.clip(generator.lognormal(np.log(MEDIAN_LENGTH), LOG_SPREAD), 1, LONGEST))
        start, shift = generator.integers(length, 2 * length), generator.integers(-length // 2, length // 2 + 1)
        corner = generator.random(2) * 300 + generator.normal(0, 2, (length, 2)).cumsum(axis=0)
        boxes = np.concatenate([corner, corner + 100], axis=1) + (predicted * generator.normal(0, 20))
        first = int(start + predicted * shift)
        condition = "HQ" if index % 2 else f"defocus:{1 + index % 5}"
        tube = {
            "item_id": f"sentence-{index}",
            "start": first,
            "stop": first + length,
            "boxes": boxes.round(decimals).tolist(),
        }
        if predicted:
            yield tube | {"condition": condition}
        else:
            frames = np.unique(np.linspace(0, 4 * length, SAMPLED_FRAMES).astype(int)).tolist()
            yield tube | {
                "conditions": [condition],
                "sentence_type": "declarative" if index % 3 else "interrogative",
                "sampled_frames": frames,
            }


if __name__ == "__main__":
    main()
