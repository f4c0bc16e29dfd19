"""How well the answer is found in a long film, and what that costs: `make bench-long`.

Without a film: each film is made of eight clips of MiniSTVG's validation split. Half of the films are cut, so that
windows and clips do not begin together. Each of four sentences is about one clip. Several rules can choose the best
window. They are compared by the tube that they lead to.

With a film: CPU seconds of this process by stage, and the most memory that it ever had.
"""

from __future__ import annotations

import argparse
import random
import resource
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from datamodules import MiniSTVG
from datamodules.footage import Footage, open_footage
from datamodules.video import read_frames
from stvg_nst.inference import join_passes
from stvg_nst.metrics.functional import tube_iou
from stvg_nst.prediction import VideoGrounder, load
from stvg_nst.prediction.viewing import show
from stvg_nst.prediction.windows import Finding, Window, best_finding, cut_windows
from stvg_nst.types import GroundingOutput, Tube

CLIPS, ASKED = 8, (1, 3, 5, 6)  # of a film, and the clips that sentences are about
CUT = 8  # frames that every other film lacks at its beginning
RULES = ("actioness x box", "actioness", "box", "start and end")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=24)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--film", type=Path, help="profile the answer to this film instead")
    parser.add_argument("--model", default="mini")
    options = parser.parse_args()
    torch.set_num_threads(1)
    grounder = load(options.model, device="cpu")
    if options.film is not None:
        profile(grounder, options.film)
    else:
        compare_rules(grounder, options.data, options.films)


def compare_rules(grounder: VideoGrounder, data: Path, films: int) -> None:
    """Prints what each rule finds: the overlap in time and in space, and how often the right moment is found at all."""
    scores: dict[str, list[tuple[float, float]]] = {rule: [] for rule in RULES}
    for film, queries, truths in made_films(data, films):
        windows = looked_through(grounder, film, queries)
        for row, true in enumerate(truths):
            for rule in RULES:
                found = best_finding([findings[rule][row] for findings in windows])
                scores[rule].append(tube_iou(found.tube, true))
    print(f"{films} films of {CLIPS} clips, {len(scores[RULES[0]])} sentences")
    for rule, pairs in scores.items():
        times, spaces = zip(*pairs, strict=True)
        hits = np.mean([overlap > 0.3 for overlap in times])
        print(f"  {rule:16} m_tIoU {np.mean(times):.3f}  m_vIoU {np.mean(spaces):.3f}  tIoU > 0.3 {hits:.3f}")


def made_films(root: Path, count: int) -> Iterator[tuple[np.ndarray, list[str], list[Tube]]]:
    """Frames of a film, sentences about it, and their true tubes."""
    data = MiniSTVG(root)
    records = [record for record in data.load_records("val") if record.sentence_type == "declarative"]
    draw = random.Random(0)
    for number in range(count):
        chosen = [records[index] for index in draw.sample(range(len(records)), CLIPS)]
        frames = np.concatenate([read_frames(record.video, range(record.num_frames)) for record in chosen])
        shifts = [place * chosen[0].num_frames - CUT * (number % 2) for place in ASKED]
        truths = [
            Tube(record.target.start + shift, record.target.stop + shift, record.target.boxes.float())
            for record, shift in zip((chosen[place] for place in ASKED), shifts, strict=True)
        ]
        yield frames[CUT * (number % 2) :], [chosen[place].query for place in ASKED], truths


class Asked(NamedTuple):
    """A window as one sentence is asked of it."""

    item_id: str
    frame_ids: tuple[int, ...]
    native_size: tuple[int, int]


@torch.inference_mode()
def looked_through(grounder: VideoGrounder, film: np.ndarray, queries: Sequence[str]) -> list[dict[str, list[Finding]]]:
    """Of each window by rule what each sentence leads to, the rule's number in the place of the confidence."""
    network, footage = grounder.frozen, open_footage(film, fps=8)
    found = []
    for frame_ids, frames in show(footage, windows_of(grounder, footage), grounder.viewing):
        (encoded,) = network.encode(frames)
        by_query = []
        for query in queries:
            output = network.grounder.ground(encoded.features, encoded.frame_mask, [query])
            (tube,) = join_passes([output], [Asked(query, frame_ids, footage.size)], "single_pass")
            by_query.append(by_rule(output, tube, frame_ids))
        found.append({rule: [each[rule] for each in by_query] for rule in RULES})
    return found


def by_rule(output: GroundingOutput, tube: Tube, frame_ids: tuple[int, ...]) -> dict[str, Finding]:
    ids = torch.tensor(frame_ids)
    inside = (tube.start <= ids) & (ids < tube.stop)
    actioness, box = output.actioness[-1, 0].sigmoid(), output.confidence[-1, 0] / 2
    ends = output.start_end[-1, 0].log_softmax(dim=0)
    numbers = {
        "actioness x box": (actioness * box)[inside].mean(),
        "actioness": actioness[inside].mean(),
        "box": box[inside].mean(),
        "start and end": ends[ids == tube.start, 0] + ends[ids == tube.stop - 1, 1],
    }
    return {rule: Finding(frame_ids, tube, number.item(), None) for rule, number in numbers.items()}


def windows_of(grounder: VideoGrounder, footage: Footage) -> tuple[Window, ...]:
    seconds = grounder.viewing.clip_seconds
    return cut_windows((0, len(footage)), footage.fps, seconds, seconds / 2)


def profile(grounder: VideoGrounder, film: Path) -> None:
    """Prints what the answer to one sentence takes."""
    before = peak_mebibytes()
    began = time.process_time()
    footage = open_footage(film)
    survey = time.process_time() - began
    windows = windows_of(grounder, footage)
    reading = working = 0.0
    began = time.process_time()
    for frame_ids, frames in show(footage, windows, grounder.viewing):
        reading += time.process_time() - began
        began = time.process_time()
        grounder.frozen.find(grounder.frozen.encode(frames), frame_ids, footage.size, ["the big red star spins"])
        working += time.process_time() - began
        began = time.process_time()
    print(f"{film}: {footage.seconds:.0f} s, {len(footage)} frames of {footage.size}, {len(windows)} windows")
    print(f"  survey {survey:.0f} s, reading {reading:.0f} s, network {working:.0f} s of one core")
    print(f"  memory {peak_mebibytes():.0f} MiB at most, {before:.0f} MiB of them before the film")


def peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
