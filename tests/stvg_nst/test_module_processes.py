"""What a module does in several processes that one alone cannot show."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tests.ranks import run_ranks

RANKS = 2


def test_a_loss_that_diverges_in_one_process_ends_all_of_them_alike(tmp_path: Path) -> None:
    run_ranks(__file__, tmp_path, count=RANKS)
    healthy, sick = ((tmp_path / str(rank)).read_text() for rank in range(RANKS))
    assert "the loss of another process is not finite; here it is 1 at step 1: the training has diverged" in healthy
    assert "the loss is nan at step 1: the training has diverged" in sick


def _diverge_in_the_last(rank: int, folder: Path) -> None:
    from stvg_nst.divergence import DivergedError
    from tests.stvg_nst.test_module_options import make, make_batch

    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    module, total = make(), torch.tensor(float("nan") if rank == RANKS - 1 else 1.0)
    module.log = module.log_dict = lambda *args, **options: None  # type: ignore[method-assign, assignment]
    module.loss.total = lambda terms: total  # type: ignore[method-assign, assignment]
    try:
        module.training_step(make_batch(), 0)
    except DivergedError as error:
        (folder / str(rank)).write_text(str(error))


if __name__ == "__main__":
    _diverge_in_the_last(int(sys.argv[1]), Path(sys.argv[2]))
