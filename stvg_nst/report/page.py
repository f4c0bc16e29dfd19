"""A report as one page of HTML that holds all it shows: it loads nothing, and can be read offline."""

from __future__ import annotations

import base64
import io
import string
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from stvg_nst.report.certificate import certificate_of, certificate_sheet
from stvg_nst.report.numbers import parameter_count
from stvg_nst.report.runs import changes_of_runs, run_labels
from stvg_nst.report.sheet import Row, Section, Sheet
from stvg_nst.report.style import FAINT, MUTED, STYLE, draw_equal_scores, draw_origin, method_looks
from stvg_nst.results.metric_names import MAIN
from stvg_nst.results.results_file import RunResults
from stvg_nst.results.run_folder import RunFile

Benchmark = tuple[Sheet, Sequence[RunResults]]
"""The tables of runs under the same conditions, and these runs."""


def report_page(folders: Sequence[Path], benchmarks: Sequence[Benchmark], left_out: Sequence[str]) -> str:
    """The page on all runs below some folders.

    Args:
        left_out: what is not shown, and why.
    """
    title = f"Report on {', '.join(map(str, folders))}"
    runs = [run for _, part in benchmarks for run in part]
    labelled = [pair for _, part in benchmarks for pair in zip(part, run_labels(part), strict=True)]
    parts = [
        ("Results", "".join(_benchmark(sheet, part) for sheet, part in benchmarks)),
        ("Figures", "".join(_picture(path) for path in _other_pictures(folders, runs))),
        ("Runs", "".join(_run(run, label) for run, label in labelled)),
        ("Left out", _notes(left_out)),
    ]
    shown = [(name, content) for name, content in parts if content]
    links = "".join(f'<a href="#{name.lower().replace(" ", "-")}">{name}</a>' for name, _ in shown)
    body = f"<h1>{escape(title)}</h1><nav>{links}</nav>" + "".join(
        f'<h2 id="{name.lower().replace(" ", "-")}">{name}</h2>{content}' for name, content in shown
    )
    template = files("stvg_nst.report").joinpath("page.html").read_text(encoding="utf-8")
    return string.Template(template).substitute(title=escape(title), body=body)


def sheet_html(sheet: Sheet) -> str:
    """Titles, tables that sort, and notes; a form of a sheet like those of ``report/sheet.py``."""
    title = f"<h3>{escape(sheet.title)}</h3>" if sheet.title else ""
    return title + "".join(map(_section, sheet.sections)) + _notes(sheet.notes)


def _section(section: Section) -> str:
    heads = "".join(
        f'<th scope="col"{_kind(section, index)}>{f"<button>{escape(name)}</button>" if name else ""}</th>'
        for index, name in enumerate(section.columns)
    )
    bodies = "".join(f"<tbody>{''.join(_row(section, row) for row in rows)}</tbody>" for rows in section.groups)
    title = f"<h3>{escape(section.title)}</h3>" if section.title else ""
    return f'{title}<div class="scroll"><table><thead><tr>{heads}</tr></thead>{bodies}</table></div>'


def _row(section: Section, row: Row) -> str:
    cells = []
    for index, cell in enumerate(row):
        text = f"<b>{escape(cell.text)}</b>" if section.is_best(row, index) else f"<span>{escape(cell.text)}</span>"
        change = f'<span class="{cell.tone}">{escape(cell.change)}</span>' if cell.change else ""
        cells.append(f"<td{_kind(section, index, warns=cell.warns)}>{text}{change}</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _kind(section: Section, index: int, *, warns: bool = False) -> str:
    kinds = ["group" if index < section.labels - 1 else "name"] if index < section.labels else []
    kinds += ["warns"] if warns else []
    return f' class="{" ".join(kinds)}"' if kinds else ""


def _notes(notes: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes">{items}</ul>' if items else ""


def _benchmark(sheet: Sheet, runs: Sequence[RunResults]) -> str:
    first = Sheet(sheet.title, sheet.sections[:1], sheet.notes)
    return sheet_html(first) + _trade_off(runs) + sheet_html(Sheet("", sheet.sections[1:]))


def _trade_off(runs: Sequence[RunResults]) -> str:
    """Each run's gain on LQ over its change on HQ, where there is a baseline to compare with."""
    found = changes_of_runs(runs)
    if not found:
        return ""
    looks = method_looks(run.method for run, _, _ in found)
    with rc_context(STYLE | {"svg.hashsalt": str(runs[0].conditions)}):
        figure = Figure(figsize=(7.2, 4.4), layout="constrained", facecolor="none")
        axes = figure.subplots()
        axes.set_facecolor("none")
        draw_origin(axes)
        for run, change, gain in found:
            axes.plot(change, gain, linestyle="none", markersize=8, label=run.method, **looks[run.method])
        axes.set(xlabel=f"change on HQ, {MAIN}, points", ylabel=f"gain on LQ, {MAIN}, points")
        axes.margins(0.15)
        across, up = axes.get_xlim(), axes.get_ylim()
        axes.set(xlim=across, ylim=up)
        draw_equal_scores(axes, across, up, slope=-1)
        handles, labels = axes.get_legend_handles_labels()
        once = dict(zip(labels, handles, strict=True))
        figure.legend(once.values(), once.keys(), loc="outside right upper", frameon=False)
        text = io.StringIO()
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    svg = text.getvalue()
    drawn = svg[svg.index("<svg") :]
    # The page's own colours, which are others on a dark screen.
    for colour, own in (("#000000", "currentColor"), (MUTED, "var(--muted)"), (FAINT, "var(--line)")):
        drawn = drawn.replace(colour, own)
    caption = "Every run against the frozen grounder at (0, 0). Thin lines join equal WAS: the higher, the better."
    return f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>"


def _run(run: RunResults, label: str) -> str:
    """Where the numbers come from: what ran, what it left, its certificate and its configuration."""
    folder = run.path.parent
    facts = {
        "results": run.path,
        "conditions": run.conditions,
        "seed": run.seed,
        "weights": run.weights or "not known",
        "trainable": f"{parameter_count(run.trainable_parameters)} of {parameter_count(run.total_parameters)}",
        "measured": f"in {run.measurement}, {run.measurement.last_digits}" if run.measurement else "not known how",
        "samples": f"{len(run.samples)}, {run.skipped} skipped",
        "commit": f"{run.git_commit or 'not known'}{', and changes that are in no commit' if run.git_dirty else ''}",
        "configuration": run.config_hash or "of no file",
        "evaluated in": f"{run.wall_seconds:.0f} s",
        "versions": ", ".join(f"{name} {version}" for name, version in run.versions.items()),
    }
    listed = "".join(f"<dt>{name}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items())
    pictures = "".join(map(_picture, sorted(folder.glob("*.png"))))
    summary = f"<summary><b>{escape(label)}</b> <small>{escape(str(folder))}</small></summary>"
    return f"<details>{summary}<dl>{listed}</dl>{pictures}{_details(folder)}</details>"


def _details(folder: Path) -> str:
    shown = ""
    if certificate := certificate_of(folder, folder / RunFile.ADAPTER):
        shown += f"<details><summary>certificate</summary>{sheet_html(certificate_sheet(certificate))}</details>"
    for config in (folder / RunFile.CONFIG, folder.parent / RunFile.POINT, folder / RunFile.POINT):
        if config.is_file():
            text = escape(config.read_text(encoding="utf-8"))
            shown += f"<details><summary>{escape(str(config))}</summary><pre>{text}</pre></details>"
    return shown


def _other_pictures(folders: Sequence[Path], runs: Sequence[RunResults]) -> list[Path]:
    """Pictures below the folders that are no run's own, such as the figures of a study."""
    own = {run.path.parent for run in runs}
    return sorted({path for folder in folders for path in folder.rglob("*.png") if path.parent not in own})


def _picture(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    name = escape(str(path))
    return f'<figure><img src="data:image/png;base64,{data}" alt="{name}"><figcaption>{name}</figcaption></figure>'
