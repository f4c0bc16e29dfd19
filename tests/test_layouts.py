"""The same clips on one process or on several, at once or gathered: every tuner follows the same gradients."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import yaml
from torch import Tensor

from tests.ranks import join_ranks, run_ranks

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
# Each tuner's overlay, and the scope over it.
TUNERS = {
    **dict.fromkeys(("lora", "adalora", "dora", "flylora", "houlsby", "corda", "projection"), "both"),
    **dict.fromkeys(("gated_lora", "gated_adapter"), "both"),
    **dict.fromkeys(("prompts", "switch", "full"), "encoder_modules"),
    **dict.fromkeys(("nst", "nst_paper"), None),
}
DROPPING = "lora+dropout"
STEP_CLIPS = 8
# Of a gradient's length, how far two layouts may be apart. What remains is the order in which single precision sums.
# CorDA divides by what clean inputs hardly use, so that its second step enlarges that.
BOUND, CORDA_BOUND = 1e-5, 1e-3


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_data(root, 2).prepare_data()
    return root


def make_data(root: Path, batch_size: int) -> Any:
    from datamodules import MiniSTVG

    return MiniSTVG(
        root,
        training_clips=4,
        val_clips=2,
        test_clips=2,
        num_frames=6,
        batch_size=batch_size,
        effective_batch=STEP_CLIPS,
        num_workers=0,
    )


def make_module(tuner: str) -> Any:
    from jsonargparse import ArgumentParser

    from stvg_nst.configuration import merge
    from stvg_nst.models.base import Grounder
    from stvg_nst.module import GroundingModule
    from stvg_nst.tuning import Tuner

    def section(name: str) -> Any:
        return yaml.safe_load((EXPERIMENTS / f"{name}.yaml").read_text())["model"]

    overlay, *dropping = tuner.split("+")
    model = merge(section("model/mini"), section(f"tuner/{overlay}"))
    if (scope := TUNERS[overlay]) is not None:
        model = merge(model, section(f"scope/{scope}"))
    if dropping:
        model["tuner"]["init_args"]["dropout"] = 0.5
    model["tuner"]["init_args"].pop("spaces", None)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Grounder, "grounder")
    parser.add_subclass_arguments(Tuner, "tuner")
    torch.manual_seed(0)
    built = parser.instantiate(parser.parse_object({part: model[part] for part in ("grounder", "tuner")}))
    module: Any = GroundingModule(
        built.grounder, built.tuner, weights="random", optimizer=partial(torch.optim.SGD, lr=1e-3), warmup_steps=0
    )
    # Off the start, where what begins at zero keeps the rest from a gradient.
    with torch.no_grad():
        for parameter in module.trained_parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    return module


class Gradients(lightning.Callback):
    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        trained = {name: p for name, p in module.grounder.named_parameters() if p.requires_grad}
        assert all(parameter.grad is not None for parameter in trained.values()), "a parameter that nothing used"
        self.steps.append({name: parameter.grad.clone() for name, parameter in trained.items()})


def follow(tuner: str, root: Path, batch_size: int, **options: Any) -> dict[str, Any]:
    """Of two steps: their gradients, what moves without one, and what decides which of AdaLoRA's directions stay."""
    module, gradients = make_module(tuner), Gradients()
    torch.manual_seed(0)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=2,
        callbacks=[gradients],
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=root,
        **{"devices": 1} | options,
    )
    trainer.fit(module, datamodule=make_data(root, batch_size))
    assert len(gradients.steps) == 2
    moved = {name: buffer for name, buffer in module.grounder.named_buffers() if name.endswith("routing_bias")}
    return {
        "steps": gradients.steps,
        "moved": {"none": torch.ones(1)} | moved,
        "scores": module.tuner.training_state(),
    }


def furthest(one: dict[str, Any], other: dict[str, Any], *kinds: str) -> dict[str, float]:
    """How far two layouts are apart, as a share of the length: in the gradients of each step, and in other tensors."""
    pairs = {
        f"gradients of step {step}": pair for step, pair in enumerate(zip(one["steps"], other["steps"], strict=True))
    }
    pairs |= {kind: (one[kind], other[kind]) for kind in kinds}
    return {name: distance(a, b) for name, (a, b) in pairs.items()}


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    a, b = (torch.cat([value.flatten().float() for value in tensors.values()]) for tensors in (one, other))
    return float((a - b).norm() / a.norm().clamp(min=1e-12))


@pytest.mark.parametrize(
    "tuner", ["lora", *(pytest.param(name, marks=pytest.mark.slow) for name in TUNERS if name != "lora")]
)
def test_a_step_that_is_gathered_is_that_of_one_batch(root: Path, tuner: str) -> None:
    found = furthest(follow(tuner, root, STEP_CLIPS), follow(tuner, root, 2))
    assert max(found.values()) < (CORDA_BOUND if tuner == "corda" else BOUND), found


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_a_step_is_the_same_on_any_number_of_processes(root: Path, tmp_path: Path, processes: int) -> None:
    tuners = (*TUNERS, DROPPING)
    run_ranks(__file__, tmp_path, count=processes, task=f"{root}|{','.join(tuners)}|2")
    for tuner in tuners:
        alone, several = follow(tuner, root, 2), torch.load(tmp_path / f"{tuner}.pt")
        found = furthest(alone, several, "moved", *(["scores"] if tuner == "adalora" else []))
        assert max(found.values()) < (CORDA_BOUND if tuner == "corda" else BOUND), (tuner, found)


def _follow_all(rank: int, folder: Path, count: int, task: str) -> None:
    root, tuners, batch_size = task.split("|")
    options: dict[str, Any] = {}
    if count > 1:
        join_ranks(rank, folder, count=count)
        options = {"devices": count, "strategy": "ddp"}
    for tuner in tuners.split(","):
        found = follow(tuner, Path(root), int(batch_size), **options)
        if rank == 0:
            torch.save(found, folder / f"{tuner}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    _follow_all(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
