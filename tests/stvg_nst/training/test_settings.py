from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest

from stvg_nst.configuration import differences
from stvg_nst.training.settings import training_settings

CONFIG: dict[str, Any] = {
    "seed_everything": 0,
    "run": "runs/a",
    "ckpt_path": None,
    "trainer": {
        "max_epochs": 4,
        "devices": 1,
        "accumulate_grad_batches": 1,
        "precision": None,
        "gradient_clip_val": 1.0,
        "max_time": None,
        "callbacks": [{"class_path": "callbacks.TubeVisualizer"}],
    },
    "data": {
        "class_path": "datamodules.MiniSTVG",
        "init_args": {"root": "data", "batch_size": 8, "num_workers": 2, "eval_batch_size": 16, "features": None},
    },
    "model": {
        "weights": "random",
        "tuner": {"class_path": "stvg_nst.tuning.LoRA", "init_args": {"rank": 4, "spaces": "a"}},
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}},
        "baseline": None,
        "warmup_steps": 0,
    },
}


def settings(changes: dict[str, Any], *, processes: int = 1, clips: str = "a") -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    for name, value in changes.items():
        *parents, last = name.split(".")
        place = config
        for parent in parents:
            place = place[parent]
        place[last] = value
    data = SimpleNamespace(training_fingerprint=lambda: clips)
    gathered = config["trainer"]["accumulate_grad_batches"]
    trainer: Any = SimpleNamespace(
        world_size=processes, precision="32-true", datamodule=data, accumulate_grad_batches=gathered
    )
    return training_settings(config, trainer)


@pytest.mark.parametrize(
    ("changes", "processes"),
    [
        ({"run": "runs/b", "ckpt_path": "last"}, 1),
        ({"trainer.max_time": "00:01:00:00", "trainer.precision": "32"}, 1),
        ({"trainer.callbacks": [{"class_path": "lightning.pytorch.callbacks.RichProgressBar"}]}, 1),
        ({"trainer.callbacks": None}, 1),
        ({"data.init_args.root": "/scratch", "data.init_args.num_workers": 0, "data.init_args.eval_batch_size": 1}, 1),
        ({"data.init_args.validation_half": "search", "data.init_args.confirmation": "list.yaml"}, 1),
        ({"model.baseline": "results.json", "model.tuner.init_args.spaces": "b"}, 1),
        ({"trainer.devices": 2, "data.init_args.batch_size": 4}, 2),
        ({"data.init_args.effective_batch": None, "model.annotated": True}, 1),
        ({"trainer.accumulate_grad_batches": 4, "data.init_args.batch_size": 2}, 1),
    ],
)
def test_what_trains_nothing_else_is_no_difference(changes: dict[str, Any], processes: int) -> None:
    assert differences(settings({}), settings(changes, processes=processes)) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed_everything": 7}, "seed_everything: 0 before, 7 now"),
        ({"model.optimizer.init_args.lr": 5e-5}, "model.optimizer.init_args.lr: 0.001 before, 5e-05 now"),
        ({"model.tuner.init_args.rank": 8}, "model.tuner.init_args.rank: 4 before, 8 now"),
        ({"model.tuner.class_path": "stvg_nst.tuning.DoRA"}, "model.tuner.class_path: "),
        ({"trainer.max_epochs": 8}, "trainer.max_epochs: 4 before, 8 now"),
        ({"trainer.gradient_clip_val": None}, "trainer.gradient_clip_val: 1.0 before, None now"),
        ({"data.class_path": "datamodules.HCSTVG"}, "data.class_path: "),
        ({"data.init_args.features": "cache"}, "data.init_args.features: None before, 'a folder' now"),
        ({"data.init_args.batch_size": 4}, "trainer.accumulate_grad_batches: 8 before, 4 now"),
        ({"model.annotated": False}, "model.annotated: 'absent' before, False now"),
        ({"data.init_args.effective_batch": 8}, "data.init_args.effective_batch: 'absent' before, 8 now"),
        ({"trainer.accumulate_grad_batches": 2}, "trainer.accumulate_grad_batches: 8 before, 16 now"),
        (
            {"trainer.callbacks": [{"class_path": "callbacks.MovingAverage", "init_args": {"decay": 0.9}}]},
            "trainer.callbacks.MovingAverage.decay: 'absent' before, 0.9 now",
        ),
        ({"model.an_option_of_tomorrow": 1}, "model.an_option_of_tomorrow: "),
    ],
)
def test_what_trains_otherwise_is_a_difference(changes: dict[str, Any], said: str) -> None:
    (difference,) = differences(settings({}), settings(changes))
    assert said in difference


def test_other_devices_with_the_same_batch_on_each_and_other_clips_are_differences() -> None:
    (difference,) = differences(settings({}), settings({}, processes=2))
    assert "8 before, 16 now" in difference
    assert differences(settings({}), settings({}, clips="b")) == ["training clips: 'a' before, 'b' now"]


def test_weights_are_compared_by_what_they_hold(tmp_path: Any) -> None:
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (settings({"model.weights": str(tmp_path / name)}) for name in "abc")
    assert differences(a, b) == [] and differences(a, c)
