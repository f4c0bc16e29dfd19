"""What docs/benchmark.md tells another implementation is what ours does."""

from __future__ import annotations

import ast
import hashlib
import re
from pathlib import Path

from datamodules.degradation import severities, unseen
from datamodules.degradation.kinds import DEGRADATION_VERSION, DEGRADATIONS, SEVERITIES, UNSEEN, UNSEEN_VERSION
from datamodules.quality import MixedQualityPlan, expand_conditions

MANUAL = (Path(__file__).resolve().parents[2] / "docs" / "benchmark.md").read_text()


def rows(header: str) -> list[list[str]]:
    """The cells below the line that begins with ``header``."""
    _, _, rest = MANUAL.partition(f"| {header}")
    lines = rest.partition("\n\n")[0].split("\n")[2:]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


def by_the_text(*parts: str | int) -> int:
    text = [f"{type(part).__name__}:{part}".encode() for part in parts]
    digest = hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in text)).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def test_the_severities_are_those_of_the_code() -> None:
    found = [[cell.strip("`") for cell in row] for row in rows("kind | parameter")]
    assert list(dict.fromkeys(row[0] for row in found)) == list(DEGRADATIONS)

    def written(values: tuple[object, ...]) -> list[str]:
        return ["-".join(f"{x:g}" for x in value) if isinstance(value, tuple) else f"{value}" for value in values]

    tables = (
        severities.MOTION_LENGTH,
        severities.DEFOCUS_SIGMA,
        severities.BRIGHTNESS,
        severities.GAMMA,
        severities.REMAINING_ROWS,
    )
    assert [row[2:] for row in found] == [written(table) for table in tables]
    assert f"## {DEGRADATION_VERSION}, the degradation" in MANUAL

    added = [[cell.strip("`") for cell in row] for row in rows("unseen kind | parameter")]
    assert [row[0] for row in added] == list(UNSEEN)
    assert [row[2:] for row in added] == [written(table) for table in (unseen.QUANTISER, unseen.NOISE, SEVERITIES)]
    assert f"## {UNSEEN_VERSION}, three kinds" in MANUAL


def test_the_draws_follow_the_text() -> None:
    plan, found = MixedQualityPlan(0), rows("parts, benchmark seed 0")
    assert len(found) == 3
    for text, answer in found:
        parts = ast.literal_eval(text.strip("`"))
        kind, severity = by_the_text("kind", *parts) % 4, 1 + by_the_text("severity", *parts) % 5
        seed = by_the_text("parameters", *parts)
        assert answer == f"`{DEGRADATIONS[kind]}:{severity}`, seed {seed}"
        drawn = plan.evaluation_degradation(parts[2])
        assert (str(drawn), drawn.seed) == (f"{DEGRADATIONS[kind]}:{severity}", seed)
        chosen = plan.degradation_in("defocus:3", parts[2])
        assert chosen is not None and chosen.seed == by_the_text("fixed", 0, parts[2], "defocus", 3)


def test_the_conditions_are_known() -> None:
    for name, kinds in (("matrix", DEGRADATIONS), ("unseen", UNSEEN)):
        assert expand_conditions(name)[1:] == tuple(f"{kind}:{s}" for kind in kinds for s in range(1, 6))
    (listed,) = (row for row in rows("conditions | each clip") if row[0].startswith("`["))
    names = re.findall(r"[\w:]+", listed[0])
    assert expand_conditions(names) == ("HQ", *(f"defocus:{s}" for s in range(1, 6)), "low_light:3")
