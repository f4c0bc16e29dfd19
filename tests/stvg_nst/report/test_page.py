"""One page holds all that a report shows, and asks nobody for anything."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from stvg_nst.report import report_folders
from stvg_nst.report.certificate import to_json
from stvg_nst.report.page import sheet_html
from stvg_nst.report.sheet import Cell, Section, Sheet
from tests.stvg_nst.report.test_certificate import CERTIFICATE
from tests.stvg_nst.report.test_folder import write_run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A baseline and a tuned run, with all that a run may leave, and a figure of a study beside them."""
    folder = tmp_path / "runs"
    points = {"HQ/m_vIoU": 39.0, "LQ/m_vIoU": 42.0, "MQ/m_vIoU": 40.5}
    write_run(folder / "base", "ZeroShot", 40)
    write_run(folder / "<b>tuned", "NullSpaceTuning", 0, metrics=points, git_commit="c0ffee")
    (folder / "<b>tuned" / "config.yaml").write_text("tuner: <script>alert(1)</script>\n")
    (folder / "<b>tuned" / "certificate.json").write_text(to_json(CERTIFICATE))
    Image.new("RGB", (4, 4), (255, 0, 0)).save(folder / "<b>tuned" / "tubes.png")
    (folder / "figures").mkdir()
    Image.new("RGB", (4, 4), (0, 255, 0)).save(folder / "figures" / "study.png")
    return folder


class _Tags(HTMLParser):
    """What a browser would open, and what it would ask for."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "link", "use", "path", "rect"):
            self.open.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("use", "path", "rect"):
            assert self.open.pop() == tag


def test_a_page_holds_tables_figures_pictures_certificate_and_configuration(runs: Path, tmp_path: Path) -> None:
    page = tmp_path / "out.html"
    assert report_folders([runs], html=page) == 0
    text = page.read_text()
    assert '<span>39.00</span><span class="worse"> (-1.00)</span>' in text
    assert '<b>42.00</b><span class="better"> (+2.00)</span>' in text
    assert ">gain on LQ, m_vIoU, points<" in text and ">NullSpaceTuning<" in text
    assert text.count("data:image/png;base64,") == 2 and "figures/study.png" in text
    assert "each layer&#x27;s own null branch" in text and "c0ffee" in text
    assert "tuner: &lt;script&gt;alert(1)" in text and text.count("<script>") == 1
    assert "<b>tuned" not in text.replace("&lt;b&gt;tuned", "")


def test_a_page_is_whole_and_asks_for_nothing(runs: Path, tmp_path: Path) -> None:
    page = tmp_path / "out.html"
    report_folders([runs], html=page)
    tags = _Tags(page.read_text())
    assert tags.open == []
    assert {source.partition(":")[0] for source in tags.sources if not source.startswith("#")} == {"data"}
    assert "default-src 'none'" in page.read_text()
    style = page.read_text().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style


def test_several_folders_are_one_report_and_a_run_counts_once(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "more" / "lora", "LoRA", 41)
    assert report_folders([runs, tmp_path / "more", runs / "base"], html=tmp_path / "out.html") == 0
    shown = capsys.readouterr().out
    assert len(re.findall(r"HQ +ZeroShot", shown)) == 1 and "LoRA" in shown and "left out" not in shown
    assert (tmp_path / "out.html").read_text().count("<summary><b>") == 3


def test_without_a_baseline_there_is_no_figure(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "lora", "LoRA", 41)
    report_folders([tmp_path / "runs"], html=tmp_path / "out.html")
    assert "<svg" not in (tmp_path / "out.html").read_text()


def test_a_damaged_certificate_is_named(runs: Path, tmp_path: Path) -> None:
    for content in ("{", "[]", '{"schema": 1}', '{"schema": 0}'):
        (runs / "base" / "certificate.json").write_text(content)
        with pytest.raises(ValueError, match=r"base/certificate\.json: is no certificate that can be shown"):
            report_folders([runs], html=tmp_path / "out.html")
        assert not (tmp_path / "out.html").exists()


def test_groups_stand_together_and_the_best_of_each_is_marked() -> None:
    rows = [(Cell(view), Cell(name), Cell(f"{n}", n)) for view in ("HQ", "LQ") for name, n in (("a", 1.0), ("b", 2.0))]
    html = sheet_html(Sheet("", (Section("t", ("", "Method", "x"), tuple(rows)),), ("a note < b",)))
    assert html.count("<tbody>") == 2 and html.count("<b>2.0</b>") == 2 and "<b>1.0</b>" not in html
    assert html.count("<button>") == 2 and "<li>a note &lt; b</li>" in html


def test_the_page_does_not_load_torch(runs: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from stvg_nst.report import report_folders; "
        f"report_folders([Path({str(runs)!r})], html=Path({str(tmp_path / 'out.html')!r})); "
        "heavy = {'torch', 'lightning', 'torchmetrics'} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_what_the_tables_do_not_compare_no_figure_compares(runs: Path, tmp_path: Path) -> None:
    for name, weights in (("base", "cg"), ("<b>tuned", "tubedetr")):
        path = runs / name / "results.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"weights": weights, "git_dirty": True}))
    report_folders([runs], html=tmp_path / "out.html")
    text = (tmp_path / "out.html").read_text()
    assert "without differences and WAS" in text and "<svg" not in text
    assert "c0ffee, and changes that are in no commit" in text
