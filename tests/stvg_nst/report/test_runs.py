from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from stvg_nst.report import BaselineError, runs_section
from stvg_nst.report.sheet import Sheet, print_sheet, sheet_markdown
from stvg_nst.results.results_file import RunResults


def run(method: str, *, trainable: int = 1_234_567, **metrics: float) -> RunResults:
    """A run whose metrics are given by keyword, ``HQ_m_vIoU`` for ``HQ/m_vIoU``."""
    return RunResults(
        path=Path("run/results.json"),
        method=method,
        dataset="MiniSTVG",
        split="test",
        metrics={name.replace("_", "/", 1): value for name, value in metrics.items()},
        samples=(),
        seed=0,
        benchmark_seed=0,
        trainable_parameters=trainable,
        total_parameters=10_000_000,
        versions={},
        git_commit=None,
        config_hash="",
        wall_seconds=1.0,
        skipped=0,
    )


RUNS = (
    run("ZeroShot", trainable=0, HQ_m_vIoU=50, LQ_m_vIoU=40, MQ_m_vIoU=45, WAS_m_vIoU=77),
    run("NullSpaceTuning", HQ_m_vIoU=49.5, LQ_m_vIoU=44.25, MQ_m_vIoU=46.875, WAS_m_vIoU=99),
)


def on_terminal(runs: Sequence[RunResults]) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        print_sheet(Sheet("", (runs_section(runs),)), console)
    return capture.get()


def to_markdown(runs: Sequence[RunResults], baseline: str | None = "ZeroShot", sentence_type: str | None = None) -> str:
    return sheet_markdown(Sheet("", (runs_section(runs, baseline, sentence_type=sentence_type),)))


def test_markdown_by_hand() -> None:
    assert to_markdown(RUNS) == (
        "### MiniSTVG test, benchmark seed 0\n"
        "\n"
        "|  | Method | Trainable | m_vIoU |\n"
        "|---|---|---:|---:|\n"
        "| HQ | ZeroShot | 0 | **50.00** |\n"
        "| HQ | NullSpaceTuning | 1.23 M | 49.50 (-0.50) |\n"
        "| LQ | ZeroShot | 0 | 40.00 |\n"
        "| LQ | NullSpaceTuning | 1.23 M | **44.25** (+4.25) |\n"
        "| MQ | ZeroShot | 0 | 45.00 |\n"
        "| MQ | NullSpaceTuning | 1.23 M | **46.88** (+1.88) |\n"
        "| WAS | NullSpaceTuning | 1.23 M | +3.75 |\n"
    )


def test_the_terminal_table_says_the_same() -> None:
    lines = [line.split() for line in on_terminal(RUNS).splitlines()]
    assert ["HQ", "ZeroShot", "0", "50.00"] in lines
    assert ["NullSpaceTuning", "1.23", "M", "44.25", "(+4.25)"] in lines
    assert ["WAS", "NullSpaceTuning", "1.23", "M", "+3.75"] in lines


def test_random_weights_cannot_be_overlooked() -> None:
    runs = (replace(RUNS[0], weights="random"), replace(RUNS[1], weights="weights/hcstvg.safetensors"))
    markdown = to_markdown(runs, baseline=None)
    assert markdown.startswith("### MiniSTVG test, benchmark seed 0, RANDOM WEIGHTS\n")
    assert "| HQ | ZeroShot RANDOM WEIGHTS | 0 |" in markdown and "| HQ | NullSpaceTuning | 1.23 M |" in markdown
    assert "RANDOM" in on_terminal(runs[:1]) and "RANDOM" not in to_markdown(RUNS)


def test_four_metrics_of_a_long_name_fit_one_hundred_columns() -> None:
    names = ("m_tIoU", "m_vIoU", "vIoU@0.3", "vIoU@0.5")
    metrics = {f"{view}/{name}": 50.0 for view in ("HQ", "LQ", "MQ") for name in names}
    runs = [replace(RUNS[0], metrics=metrics), replace(RUNS[1], metrics=metrics)]
    runs.append(replace(runs[1], path=Path("a-run-with-quite-a-long-name/results.json")))
    text = on_terminal(runs)
    assert text.count("50.00 (+0.00)") == 24
    assert max(map(len, text.splitlines())) <= 100


def test_without_a_baseline_there_are_no_differences_and_no_was() -> None:
    text = to_markdown(RUNS, None)
    assert "| HQ | NullSpaceTuning | 1.23 M | 49.50 |" in text
    assert "(" not in text and "WAS" not in text


def test_a_view_of_one_sentence_type() -> None:
    runs = [
        replace(r, metrics=r.metrics | {"HQ/declarative/m_vIoU": 60.0 + i, "LQ/declarative/m_vIoU": 30.0})
        for i, r in enumerate(RUNS)
    ]
    text = to_markdown(runs, sentence_type="declarative")
    assert "### MiniSTVG test, declarative sentences, benchmark seed 0" in text
    assert "| HQ | NullSpaceTuning | 1.23 M | **61.00** (+1.00) |" in text
    assert "| WAS | NullSpaceTuning | 1.23 M | +1.00 |" in text
    assert "MQ" not in text


def test_a_metric_that_a_run_lacks_is_a_dash() -> None:
    more = replace(RUNS[0], metrics=RUNS[0].metrics | {"HQ/vIoU@0.5": 12.0, "loss": 1.0, "HQ": 1.0})
    text = to_markdown([more, RUNS[1]])
    assert "| HQ | ZeroShot | 0 | **50.00** | 12.00 |" in text  # the best of one is no news
    assert "| HQ | NullSpaceTuning | 1.23 M | 49.50 (-0.50) | - |" in text


def test_runs_of_one_method_are_told_apart_by_their_folder() -> None:
    text = to_markdown([RUNS[0], *(replace(RUNS[1], path=Path(f"runs/{name}/results.json")) for name in ("a", "[b]"))])
    assert "| NullSpaceTuning (a) |" in text and "| NullSpaceTuning ([b]) |" in text
    assert "| ZeroShot |" in text


def test_rounding_leaves_no_negative_zero() -> None:
    text = to_markdown([RUNS[0], run("LoRA", HQ_m_vIoU=49.999, LQ_m_vIoU=40.0)])
    assert "| HQ | LoRA | 1.23 M | **50.00** (+0.00) |" in text
    assert "| WAS | LoRA | 1.23 M | +0.00 |" in text


def test_a_table_without_its_baseline_is_refused() -> None:
    with pytest.raises(BaselineError, match="no run of the baseline ZeroShot among NullSpaceTuning"):
        runs_section(RUNS[1:])
    other = replace(RUNS[0], path=Path("other/results.json"), metrics={"HQ/m_vIoU": 1.0})
    with pytest.raises(
        BaselineError, match=r"2 runs of the baseline ZeroShot differ: run/results\.json, other/results\.json"
    ):
        runs_section([*RUNS, other])
    with pytest.raises(BaselineError, match=r"tuned the weights 'b', but the baseline run/results\.json has 'a'"):
        runs_section([replace(RUNS[0], weights="a"), replace(RUNS[1], weights="b")])
    with pytest.raises(BaselineError, match="needs LQ/m_vIoU of the zero-shot baseline, which has HQ/m_vIoU"):
        runs_section([other, RUNS[1]])


def test_equal_runs_of_the_baseline_are_one_baseline() -> None:
    assert to_markdown([*RUNS, replace(RUNS[0], path=Path("again/results.json"))]).count("(+4.25)") == 1


def test_different_benchmarks_are_not_mixed() -> None:
    with pytest.raises(ValueError, match="MiniSTVG test, benchmark seed 0; MiniSTVG test, benchmark seed 1;"):
        to_markdown([RUNS[0], replace(RUNS[1], benchmark_seed=1)])
    with pytest.raises(ValueError, match="got no run"):
        runs_section([], None)
