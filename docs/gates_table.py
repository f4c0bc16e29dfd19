"""How far the gates of tuned models open on the validation split, as a table: mean and deviation over seeds.

Of runs made by ``python -m stvg_nst validate --run FOLDER/NAME-seed0 ...``, which logs its gates for TensorBoard::

    python docs/gates_table.py runs/gates > docs/peers/gates.md
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

RUN = re.compile(r"(?P<name>.+)-seed\d+")
TAGS = {"gates/mean_HQ": "HQ", "gates/mean_LQ": "LQ", "gates/auroc": "AUROC"}


def gates_of(run: Path) -> dict[str, float]:
    """What a validation logged of its gates, by tag.

    Raises:
        ValueError: the folder holds no gates, or those of more than one validation.
    """
    events = EventAccumulator(str(run)).Reload()
    found = {tag: [event.value for event in events.Scalars(tag)] for tag in TAGS if tag in events.Tags()["scalars"]}
    if found.keys() != TAGS.keys() or any(len(values) != 1 for values in found.values()):
        counts = {tag: len(found.get(tag, ())) for tag in TAGS}
        raise ValueError(f"{run}: expected one validation that logged {', '.join(TAGS)}; got {counts}")
    return {tag: values[0] for tag, values in found.items()}


def gates_markdown(folder: Path) -> str:
    """The table of all runs ``NAME-seedK`` in a folder, a row for each name.

    Raises:
        ValueError: there is none, something else lies there, or a run is no validation.
    """
    runs: Mapping[str, list[dict[str, float]]] = defaultdict(list)
    for path in sorted(folder.iterdir()):
        named = RUN.fullmatch(path.name)
        if named is None:
            raise ValueError(f"{path}: expected runs by the name NAME-seed0")
        runs[named["name"]].append(gates_of(path))
    if not runs:
        raise ValueError(f"{folder}: holds no runs")
    rows = (
        f"| {name} | {len(seeds)} | " + " | ".join(_spread([gates[tag] for gates in seeds]) for tag in TAGS) + " |"
        for name, seeds in runs.items()
    )
    head = (f"| | seeds | {' | '.join(TAGS.values())} |", "|---|---:|" + "---:|" * len(TAGS))
    return "\n".join(("### Gates on the validation split", "", *head, *rows)) + "\n"


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


if __name__ == "__main__":
    sys.stdout.write(gates_markdown(Path(sys.argv[1])))
