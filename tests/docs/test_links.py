"""Links of the pages lead somewhere, and the files that they name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted((*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), *REPOSITORY.glob("stvg_nst/**/*.md")))
# A file of the repository, named from its root. A word in capitals stands for a name that the reader gives.
NAMED = re.compile(
    r"(?<![\w./-])(?:benchmarks|callbacks|container|datamodules|docs|experiments|stvg_nst|tests)/[\w./-]*\w/?"
)
GIVEN = re.compile(r"/[A-Z]+\b")
OF_THE_READER = ("datamodules/streets/",)  # what docs/data.md shows how to add


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Where a link may lead to within a page: its headings, written as GitHub writes them."""
    headings = re.findall(r"^#+ (.*)$", without_code(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", without_code(page.read_text(encoding="utf-8"))):
        name, _, anchor = link.partition("#")
        if not name.startswith(("http:", "https:")):
            target = (page.parent / name) if name else page
            assert target.exists(), f"{page.name} links to '{link}', and there is no such file"
            assert not anchor or anchor in anchors(target), (
                f"{page.name} links to '{link}', and there is no such heading"
            )


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    named = NAMED.findall(without_code(page.read_text(encoding="utf-8")))
    named = [name for name in named if not GIVEN.search(name) and not name.startswith(OF_THE_READER)]
    assert [name for name in named if not (REPOSITORY / name).exists()] == []
