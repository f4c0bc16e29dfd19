"""Fills the tables of a page in from the Markdown files that the commands wrote: ``make docs``.

In the page, ``<!-- begin peers/table1.md tables -->`` and ``<!-- end -->`` mark the place of a file's tables, and with
``notes`` in place of ``tables`` that of its notes. Paths are relative to the page. What stands between is replaced, so
that no number of the page is copied by hand; a test of the repository compares the two.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PART = re.compile(r"(<!-- begin (?P<file>\S+) (?P<what>tables|notes) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)
MARK = re.compile(r"<!-- (begin|end)\b")


def embedded(page: Path) -> str:
    """The text of a page with all its parts filled in.

    Raises:
        ValueError: the page has no part, or a mark that opens or closes none.
        OSError: a file is missing.
    """
    text = page.read_text(encoding="utf-8")
    parts = list(PART.finditer(text))
    if not parts or len(MARK.findall(text)) != 2 * len(parts):
        raise ValueError(
            f"{page}: expected pairs of '<!-- begin FILE tables -->' or '... notes -->' and '<!-- end -->'; "
            f"got {len(parts)} whole pairs and {len(MARK.findall(text))} marks"
        )
    return PART.sub(lambda part: f"{part[1]}{_content(page.parent / part['file'], part['what'])}{part['end']}", text)


def _content(source: Path, what: str) -> str:
    lines = source.read_text(encoding="utf-8").splitlines()
    if what == "notes":
        kept = [line for line in lines if line.startswith("* ")]
        return "".join(f"{line}\n" for line in kept)
    # Without the title, for the page has its own; titles of sections in italics, so that they are no chapters of it.
    body = [f"*{line.removeprefix('### ')}*" if line.startswith("### ") else line for line in lines]
    kept = [line for line in body if not line.startswith(("## ", "* "))]
    return "\n" + "\n".join(kept).strip("\n") + "\n\n"


def main(pages: list[str]) -> None:
    for page in map(Path, pages):
        page.write_text(embedded(page), encoding="utf-8")
        print(f"filled in: {page}")


if __name__ == "__main__":
    main(sys.argv[1:])
