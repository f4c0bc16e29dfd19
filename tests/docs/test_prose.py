"""The pages are read by people for whom English is a second language: sentences stay short."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import mean, quantiles

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
TABLES = {REPOSITORY / "docs" / name for name in ("peers", "confirm")}  # written by commands, but for these pages
PAGES = sorted(
    page
    for page in (*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("stvg_nst/**/*.md"))
    if TABLES.isdisjoint(page.parents) or page.name in ("README.md", "ablations.md", "main-job.md")
)
MEAN_WORDS, NINE_OF_TEN = 16, 28
# Turns of phrase that make a reader stop.
STUMBLES = re.compile(r"\b(be it|if by little|hardly of|hangs? on|for want of|of its own accord)\b", re.IGNORECASE)


def sentences(text: str) -> list[str]:
    """The sentences of a page's prose: no code, tables, headings or pictures; a bullet is a sentence at least."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"^(#|\||!\[| {4,}\S).*$", "\n", text, flags=re.MULTILINE)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`]*`", "code", text)
    paragraphs = re.split(r"\n\s*\n|\n(?=\s*(?:[*-]|\d+\.) )", text)
    found = [
        sentence
        for paragraph in paragraphs
        for sentence in re.split(r"(?<=[.!?:;])[*_)]*\s+(?=[\"'*_(\[A-Z0-9c])", " ".join(paragraph.split()))
    ]
    return [sentence for sentence in found if len(words(sentence)) > 2]


def words(sentence: str) -> list[str]:
    return re.findall(r"[A-Za-z0-9@][\w.,'/+@-]*", sentence)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_sentences_are_short(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    lengths = [len(words(sentence)) for sentence in sentences(text)]
    if len(lengths) < 5:
        return
    longest = sorted(sentences(text), key=lambda sentence: -len(words(sentence)))[:3]
    ninth = quantiles(lengths, n=10)[-1]
    assert mean(lengths) < MEAN_WORDS and ninth < NINE_OF_TEN, (
        f"{page.name}: mean {mean(lengths):.1f}, nine of ten below {ninth:.0f}; split {longest}"
    )
    assert not STUMBLES.search(text), STUMBLES.search(text)


def test_the_source_has_no_turn_of_phrase_that_makes_a_reader_stop() -> None:
    """In docstrings, comments, messages and help."""
    folders = ("stvg_nst", "datamodules", "callbacks", "benchmarks", "experiments")
    files = [
        file for folder in folders for suffix in ("py", "yaml") for file in (REPOSITORY / folder).rglob(f"*.{suffix}")
    ]
    lines = [(file, line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    assert len(files) > 200
    assert [f"{file.relative_to(REPOSITORY)}: {line}" for file, line in lines if STUMBLES.search(line)] == []


def test_a_sentence_ends_where_a_reader_stops() -> None:
    text = "# A title\n\nOne two three. Four `five.six` seven\neight!\n\n* a bullet of words\n* and another one\n"
    assert sentences(text) == ["One two three.", "Four code seven eight!", "* a bullet of words", "* and another one"]
