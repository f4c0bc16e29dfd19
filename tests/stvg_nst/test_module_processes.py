"""What a module does in several processes that one alone cannot show."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from tests.ranks import join_ranks, run_ranks

if TYPE_CHECKING:
    from stvg_nst.module import GroundingModule
    from stvg_nst.types import Batch

RANKS = 2


def test_a_loss_that_diverges_in_one_process_ends_all_of_them_alike(tmp_path: Path) -> None:
    run_ranks(__file__, tmp_path, count=RANKS, task="diverge")
    healthy, sick = ((tmp_path / str(rank)).read_text() for rank in range(RANKS))
    assert "the loss of another process is not finite; here it is 1 at step 1: the training has diverged" in healthy
    assert "the loss is nan at step 1: the training has diverged" in sick


def _diverge_in_the_last(rank: int, folder: Path) -> None:
    from stvg_nst.training.divergence import DivergedError
    from tests.stvg_nst.test_module_options import make, make_batch

    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    module, total = make(), torch.tensor(float("nan") if rank == RANKS - 1 else 1.0)
    module.log = module.log_dict = lambda *args, **options: None  # type: ignore[method-assign, assignment]
    module.loss.total = lambda terms: total  # type: ignore[method-assign, assignment]
    try:
        module.training_step(make_batch(), 0)
    except DivergedError as error:
        (folder / str(rank)).write_text(str(error))
    torch.distributed.destroy_process_group()  # or its thread may be at work when the process ends


# Clips by rank and batch, low quality in lower case: uneven batches, and ranks that lack a quality or have both.
SHARES = {
    "test": (("ABc", "D"), ("EF",), ("gH", "I", "j"), ("k",)),
    "validate": (("AB", "C"), ("DE",), ("F",), ("GHI",)),  # no low quality anywhere
    "fit": (("AB", "c"), ("DE",), ("Fg", "h", "i"), ("J",)),
}


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_processes_with_uneven_shares_log_what_one_alone_does(tmp_path: Path, count: int) -> None:
    run_ranks(__file__, tmp_path, count=count, task="measure")
    found = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(count)]
    for stage, shares in SHARES.items():
        alone = _measure(stage, ["".join(batch for share in shares[:count] for batch in share)], folder=tmp_path)
        assert all(values[stage] == pytest.approx(alone, rel=1e-6) for values in found)
        name = "test" if stage == "test" else "val"
        assert f"{name}/HQ/boxes" in alone
        assert (f"{name}/LQ/giou" in alone) is (f"{name}/LQ/m_vIoU" in alone) is (stage != "validate")


def test_a_process_without_a_quality_offers_the_same_sums_as_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.stvg_nst.test_module_options import make

    modules, logged = [make(), make()], []
    for module, clips in zip(modules, ("AB", "Cd"), strict=True):
        monkeypatch.setattr(module, "log_dict", lambda values, **options: logged.append((values, options)))
        module.test_step(_batch(clips), 0)
    assert not logged, "what a batch holds must not decide what is exchanged"
    first, second = (module.loss_means for module in modules)
    assert {name: state.shape for name, state in first.metric_state.items()} == {
        name: state.shape for name, state in second.metric_state.items()
    }
    modules[0].on_test_epoch_end()
    (values, options) = logged[0]
    assert {name.split("/")[1] for name in values} == {"HQ", "MQ"} and "sync_dist" not in options


def _batch(clips: str) -> Batch:
    """One clip a letter, of as many frames inside the target as the alphabet says; lower case is low quality."""
    from stvg_nst.types import Degradation, Quality
    from tests.stvg_nst.test_module_tuners import make_batch

    seeds = [ord(letter.upper()) for letter in clips]
    batch = make_batch(seeds)
    qualities = [Quality(int(letter.islower())) for letter in clips]
    degraded = Degradation("defocus", 3, 0)
    inside = batch.inside.clone()
    inside[:, 2] &= torch.tensor([seed % 3 > 0 for seed in seeds])
    return replace(
        batch,
        clips=tuple(
            replace(clip, quality=quality, degradation=degraded if quality else None)
            for clip, quality in zip(batch.clips, qualities, strict=True)
        ),
        inside=inside,
        boxes=batch.boxes * inside[..., None],
        qualities=torch.tensor([int(quality) for quality in qualities]),
    )


def _measure(stage: str, batches: Sequence[str], *, folder: Path, **options: Any) -> dict[str, float]:
    """What is logged by a stage that shows these batches; of a fit, by its validation."""
    from stvg_nst.module import GroundingModule
    from stvg_nst.tuning import LoRA
    from tests.stvg_nst.test_module_tuners import TinyGrounder

    torch.manual_seed(0)
    tuner = LoRA(targets=("head",), rank=2, alpha=1)
    still = partial(torch.optim.SGD, lr=0.0)
    module: GroundingModule = GroundingModule(TinyGrounder(), tuner, weights="random", optimizer=still)
    trainer = lightning.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        **{"devices": 1} | options,
    )
    loader = DataLoader(batches, batch_size=None, collate_fn=_batch)  # type: ignore[arg-type, var-annotated]
    if stage == "fit":
        trainer.fit(module, DataLoader(["A"], batch_size=None, collate_fn=_batch), loader)  # type: ignore[arg-type]
    elif stage == "validate":
        trainer.validate(module, loader, verbose=False)
    else:
        trainer.test(module, loader, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items() if not name.startswith("train")}


def _measure_shares(rank: int, folder: Path, count: int) -> None:
    join_ranks(rank, folder, count=count)
    values = {
        stage: _measure(stage, shares[rank], folder=folder, devices=count, strategy="ddp")
        for stage, shares in SHARES.items()
    }
    (folder / str(rank)).write_text(json.dumps(values))


if __name__ == "__main__":
    _rank, _folder, _count, _task = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    if _task == "diverge":
        _diverge_in_the_last(_rank, _folder)
    else:
        _measure_shares(_rank, _folder, _count)
