"""A study in miniature: overlays of a few keys, and a program that does in a moment what `fit` and `test` leave."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

# Obeys the configuration's `trainer.act`: die (before anything is learnt), diverge or hang (in the fit; the first one
# only), vanish (after it, without results).
PROGRAM = """\
import json, os, re, sys, time
from pathlib import Path

named = [argument for argument in sys.argv[2:] if "=" not in argument]
stage, options = sys.argv[1], dict(zip(named[::2], named[1::2]))
run, config = Path(options["--run"]), Path(options["--config"]).read_text()
draw = next((int(option.split("=")[1]) for option in sys.argv if "benchmark_seed=" in option), 0)
value = lambda name: (re.search(rf"^ *{name}: (.*)$", config, re.MULTILINE) or [None, None])[1]
seed, rank, act = int(value("seed_everything") or 0), float(value("rank") or 0), value("act")
with (run / "calls").open("a") as calls:
    calls.write(f"{stage} {os.environ['OMP_NUM_THREADS']} {os.environ.get('CUDA_VISIBLE_DEVICES')}\\n")
if act == "die":
    sys.exit("Traceback\\nValueError: rank must be positive\\n(a hint)")
if stage == "fit":
    assert options["--ckpt_path"] == "last"
    is_resumed = (run / "checkpoints").exists()
    (run / "checkpoints").mkdir(exist_ok=True)
    if act == "hang" and not is_resumed:
        (run / "pid").write_text(str(os.getpid()))
        time.sleep(60)
    if act == "diverge":
        print("error: the loss is nan at step 7", file=sys.stderr)
        sys.exit(3)
    (run / "adapter.safetensors").touch()
    sys.exit()
if act == "vanish":
    sys.exit()
method = "ZeroShot" if "--model.adapter" not in options else "NullSpaceTuning"
names = ("m_tIoU", "m_vIoU", "vIoU@0.3", "vIoU@0.5")
points = {"HQ": 50 - rank / 10, "LQ": 30 + rank + seed + 10 * draw * (rank > 0)}
results = {
    "schema": 1, "method": method, "dataset": "MiniSTVG", "split": value("evaluation_split") or "test",
    "metrics": {f"{view}/{name}": points[view] for view in points for name in names},
    "samples": [{"item_id": "a", "quality": quality} for quality in points], "seed": seed, "benchmark_seed": draw,
    "trainable_parameters": int(1000 * rank), "total_parameters": 9, "versions": {}, "git_commit": None,
    "config_hash": "", "wall_seconds": 1.0, "skipped": 0,
}
with (run / "predictions.json").open("x"):  # as the real one, it overwrites nothing
    pass
(run / "results.json").write_text(json.dumps(results))
"""

OVERLAYS: Mapping[str, Any] = {
    "base": {"trainer": {"max_epochs": 4}, "data": {"class_path": "Mini", "init_args": {"root": "data"}}},
    "frozen": {"model": {"tuner": {"class_path": "ZeroShot"}}},
    "nst": {"model": {"tuner": {"class_path": "NST", "init_args": {"rank": 4, "gate": "soft"}}}},
    "lora": {"model": {"tuner": {"class_path": "LoRA", "init_args": {"rank": 2}}}},
}


@pytest.fixture
def program(tmp_path: Path) -> tuple[str, ...]:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    return sys.executable, "-S", str(script)


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    """What a study of two points and two seeds says; its overlays lie there."""
    paths = {name: tmp_path / f"{name}.yaml" for name in OVERLAYS}
    for name, path in paths.items():
        path.write_text(yaml.safe_dump(OVERLAYS[name]))
    return {
        "title": "Two ranks",
        "seeds": [0, 1],
        "minutes_per_run": 3,
        "overlays": [str(paths["base"])],
        "baseline": [str(paths["frozen"])],
        "tuner": [str(paths["nst"])],
        "points": {"rank 4": {}, "rank 8": {"model.tuner.init_args.rank": 8}},
        "quick": {"seeds": [0], "minutes_per_run": 1, "set": {"trainer.max_epochs": 1}},
    }


@pytest.fixture
def write(tmp_path: Path, content: dict[str, Any]) -> Callable[..., Path]:
    """Writes the study with some keys changed, or dropped where they are ``None``."""

    def written(**changes: Any) -> Path:
        path = tmp_path / "study.yaml"
        changed = {name: value for name, value in (content | changes).items() if value is not None}
        path.write_text(yaml.safe_dump(changed, sort_keys=False))
        return path

    return written
