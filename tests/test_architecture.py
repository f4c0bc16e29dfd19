"""The walls of the house, read from the source: which package may import which, and what no file may hold."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("stvg_nst", "datamodules", "callbacks")
COMPOSITION_ROOT = ("stvg_nst.__main__", "stvg_nst.commands")
# Anyone's video needs a reader of films and a network in one call. Of the library this room alone knows both, so that
# `from stvg_nst import load` reads films as the data modules do, and answers as `test` does.
OWN_VIDEO = "stvg_nst.prediction"
NOUNS_OF_DATAMODULES = (
    "stvg_nst.types",
    "stvg_nst.seeding",
    "stvg_nst.boxes",
    "stvg_nst.results.conditions",
    "stvg_nst.machine",
    "stvg_nst.queries",
    "stvg_nst.counting",
)
DATA_ONLY = ("av", "albumentations")
MAY_PRINT = (*COMPOSITION_ROOT, "stvg_nst.command_line.failures", "stvg_nst.report")
READERS_OF_RESULTS = ("stvg_nst.report", "stvg_nst.evaluation", "stvg_nst.study")
WITHOUT_TORCH = ("stvg_nst.machine", "stvg_nst.results", *READERS_OF_RESULTS)
MAY_WRITE_IN_PLACE = (
    "stvg_nst.machine.whole_files",
    "stvg_nst.machine.folder_lock",  # a lock, which has no content
    "datamodules.caches",  # a folder that takes its name when it is whole
    "datamodules.ministvg",  # likewise
)
HOMELESS = {"utils", "util", "misc", "helpers", "common"}


@dataclass(frozen=True)
class Module:
    """A source file: its dotted name (a package's is that of its ``__init__``), tree and absolute imports."""

    name: str
    path: Path
    tree: ast.Module
    imports: tuple[tuple[int, str], ...]  # (line, dotted name)
    only_typed: frozenset[int]  # lines of imports that only a type checker reads

    def inside(self, *packages: str) -> bool:
        return within(self.name, *packages)


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def read_modules(root: Path) -> dict[str, Module]:
    modules = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if is_package else parts)
            tree = ast.parse(path.read_text(), filename=str(path))
            parent = name if is_package else name.rpartition(".")[0]
            modules[name] = Module(name, path, tree, tuple(imports_of(tree, parent)), only_typed_lines(tree))
    return modules


def imports_of(tree: ast.Module, parent: str) -> Iterator[tuple[int, str]]:
    """Every imported name, wherever in the file; ``from a import b`` counts as ``a.b``, for ``b`` may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parent.split(".")[: len(parent.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def only_typed_lines(tree: ast.Module) -> frozenset[int]:
    """Lines below ``if TYPE_CHECKING:``, which never run."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return frozenset(
        node.lineno for block in blocks for part in block.body for node in ast.walk(part) if _is_import(node)
    )


def _is_import(node: ast.AST) -> TypeGuard[ast.Import | ast.ImportFrom]:
    return isinstance(node, ast.Import | ast.ImportFrom)


def wrong_arrows(modules: dict[str, Module]) -> Iterator[str]:
    for module in modules.values():
        for line, target in module.imports:
            where = f"{module.name}:{line}: imports {target}"
            if within(target, *COMPOSITION_ROOT) and not module.inside(*COMPOSITION_ROOT):
                yield f"{where}; nothing knows the commands but the commands"
            elif within(target, OWN_VIDEO) and not module.inside(*COMPOSITION_ROOT, OWN_VIDEO):
                if module.name != "stvg_nst" or line not in module.only_typed:
                    yield f"{where}; only the commands know {OWN_VIDEO}, and `stvg_nst.load` leads there when asked for"
            elif module.inside("stvg_nst") and within(target, "datamodules", "callbacks"):
                reads_films = module.inside(OWN_VIDEO) and within(target, "datamodules")
                if not module.inside(*COMPOSITION_ROOT) and not reads_films:
                    yield f"{where}; only {' and '.join(COMPOSITION_ROOT)} may reach outside stvg_nst"
            elif module.inside("datamodules") and within(target, "callbacks"):
                yield f"{where}; datamodules never imports callbacks"
            elif module.inside("datamodules") and within(target, "stvg_nst"):
                if not within(target, *NOUNS_OF_DATAMODULES):
                    yield f"{where}; datamodules takes only {', '.join(NOUNS_OF_DATAMODULES)} from stvg_nst"
            elif module.inside("callbacks") and within(target, "datamodules"):
                yield f"{where}; callbacks never imports datamodules"
            elif module.inside("stvg_nst.study", "stvg_nst.evaluation") and within(target, "stvg_nst.report"):
                yield f"{where}; what is measured does not know how it is shown"
            elif module.inside("stvg_nst.results") and within(target, *READERS_OF_RESULTS):
                yield f"{where}; what a run leaves does not know what is made of it"
            elif within(target, *DATA_ONLY) and not module.inside("datamodules"):
                yield f"{where}; pixels are decoded and degraded only in datamodules"


def project_imports(module: Module, modules: dict[str, Module], *, but: Container[int] = ()) -> set[str]:
    """The project's own files that ``module`` names in an import, itself excepted; not those on some lines."""
    targets = set()
    for line, target in module.imports:
        if line in but:
            continue
        owner = target if target in modules else target.rpartition(".")[0]
        if owner in modules:
            targets.add(owner)
    return targets - {module.name}


def heavy_reports(modules: dict[str, Module]) -> Iterator[str]:
    """Files of reports, evaluation and studies that load torch or Lightning, directly or through another file."""
    for start in (module for module in modules.values() if module.inside(*WITHOUT_TORCH)):
        waiting, seen = [start.name], set()
        while waiting:
            name = waiting.pop()
            if name in seen or name not in modules:
                continue
            seen.add(name)
            only_typed = modules[name].only_typed
            for line, target in modules[name].imports:
                if line not in only_typed and within(target, "torch", "lightning", "torchmetrics", "transformers"):
                    yield f"{start.name}: loads {target} ({name}:{line}); it must work without torch"
            waiting += project_imports(modules[name], modules, but=only_typed)
            if "." in name:
                waiting.append(name.rpartition(".")[0])  # importing a module runs the __init__ of its package


def import_cycles(modules: dict[str, Module]) -> Iterator[str]:
    graph = {name: project_imports(module, modules) for name, module in modules.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        yield "import cycle: " + " -> ".join(reversed(error.args[1]))


def room_cycles(modules: dict[str, Module]) -> Iterator[str]:
    """Rooms that need each other, even where no two of their files do: neither can be read before the other."""
    graph: dict[str, set[str]] = {}
    for module in modules.values():
        targets = project_imports(module, modules, but=module.only_typed)
        graph.setdefault(room_of(module.name), set()).update(room_of(target) for target in targets)
    try:
        graphlib.TopologicalSorter({room: needs - {room} for room, needs in graph.items()}).prepare()
    except graphlib.CycleError as error:
        yield "rooms in a circle: " + " -> ".join(reversed(error.args[1]))


def room_of(name: str) -> str:
    """A folder or a loose file of ``stvg_nst``; the two other packages are one room each."""
    return ".".join(name.split(".")[:2]) if name.startswith("stvg_nst.") else name.partition(".")[0]


def homeless_files(modules: dict[str, Module]) -> Iterator[str]:
    for module in modules.values():
        if HOMELESS & set(module.name.split(".")):
            yield f"{module.name}: a thing without a home shows a missing name"


def unwanted_code(modules: dict[str, Module]) -> Iterator[str]:
    for module in modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                if not module.inside(*MAY_PRINT):
                    yield f"{module.name}:{node.lineno}: print() in library code; use logging"
            elif isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else "everything"
                if caught in ("Exception", "BaseException", "everything"):
                    yield f"{module.name}:{node.lineno}: catches {caught}; name the errors that can be handled"


def writes_in_place(modules: dict[str, Module]) -> Iterator[str]:
    """Calls that write a file under its own name, where a full disk leaves half of it and another's permissions."""
    for module in modules.values():
        if module.inside(*MAY_WRITE_IN_PLACE):
            continue
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            to_write = any(isinstance(word, ast.Constant) and word.value in ("w", "wb") for word in ast.walk(node))
            writes = name in ("write_text", "write_bytes", "save_file", "savefig", "imwrite", "mkstemp", "mkdtemp")
            if (writes or (name == "open" and to_write)) and "partial" not in ast.unparse(node):
                yield f"{module.name}:{node.lineno}: {name}() writes in place; use stvg_nst.machine.whole_files"


RULES = (wrong_arrows, heavy_reports, import_cycles, room_cycles, homeless_files, unwanted_code, writes_in_place)


def violations(root: Path) -> list[str]:
    modules = read_modules(root)
    return [message for rule in RULES for message in rule(modules)]


def test_the_house_stands() -> None:
    assert violations(REPOSITORY) == []


def test_all_three_packages_are_read() -> None:
    found = {name.partition(".")[0] for name in read_modules(REPOSITORY)}
    assert {"stvg_nst", "callbacks"} <= found <= set(PACKAGES)


@pytest.mark.parametrize(
    ("path", "source", "message"),
    [
        ("stvg_nst/module.py", "import datamodules", "stvg_nst.module:1: imports datamodules; only stvg_nst.__main__"),
        ("stvg_nst/cli.py", "from callbacks import X", "stvg_nst.cli:1: imports callbacks.X"),
        ("stvg_nst/a.py", "from stvg_nst.commands.run import fit", "nothing knows the commands but the commands"),
        ("callbacks/a.py", "from stvg_nst.commands import run", "nothing knows the commands but the commands"),
        ("stvg_nst/a.py", "def f():\n    from datamodules.video import g", "stvg_nst.a:2: imports datamodules.video.g"),
        ("datamodules/a.py", "import stvg_nst", "datamodules.a:1: imports stvg_nst; datamodules takes only"),
        ("datamodules/a.py", "from stvg_nst import tubes", "datamodules.a:1: imports stvg_nst.tubes"),
        ("datamodules/m/a.py", "from stvg_nst.typesetting import x", "imports stvg_nst.typesetting.x"),
        ("datamodules/a.py", "from callbacks import X", "datamodules never imports callbacks"),
        ("callbacks/a.py", "import datamodules.video as v", "callbacks never imports datamodules"),
        ("callbacks/a.py", "from albumentations import Blur", "pixels are decoded and degraded only in datamodules"),
        ("stvg_nst/a.py", "import av", "pixels are decoded and degraded only in datamodules"),
        ("stvg_nst/study/a.py", "from stvg_nst.report import X", "what is measured does not know how it is shown"),
        ("stvg_nst/results/a.py", "from stvg_nst.study import X", "what a run leaves does not know what is made of it"),
        ("stvg_nst/results/a.py", "import torch", "stvg_nst.results.a: loads torch (stvg_nst.results.a:1)"),
        ("datamodules/a.py", "from stvg_nst.results.was import f", "datamodules.a:1: imports stvg_nst.results.was.f"),
        ("stvg_nst/report/t.py", "import torch.nn as nn", "stvg_nst.report.t: loads torch.nn (stvg_nst.report.t:1)"),
        ("stvg_nst/study/t.py", "import lightning", "stvg_nst.study.t: loads lightning (stvg_nst.study.t:1)"),
        (
            "stvg_nst/evaluation/t.py",
            "from stvg_nst.tubes import f",
            "stvg_nst.evaluation.t: loads torch (stvg_nst.boxes",
        ),
        ("stvg_nst/prediction/a.py", "import callbacks", "stvg_nst.prediction.a:1: imports callbacks; only"),
        ("stvg_nst/a.py", "from stvg_nst.prediction import load", "only the commands know stvg_nst.prediction"),
        (
            "stvg_nst/__init__.py",
            "from stvg_nst.prediction import load",
            "stvg_nst:1: imports stvg_nst.prediction.load",
        ),
        ("datamodules/a.py", "from stvg_nst.prediction import load", "only the commands know stvg_nst.prediction"),
        ("stvg_nst/__init__.py", "import torch", "stvg_nst.report: loads torch (stvg_nst:1)"),
        ("stvg_nst/report/t.py", "from ..boxes import f", "stvg_nst.report.t: loads torch (stvg_nst.boxes:1)"),
        ("stvg_nst/report/t.py", "from stvg_nst.heavy.light import f", "loads lightning (stvg_nst.heavy:1)"),
        ("stvg_nst/boxes.py", "from . import tubes", "import cycle: stvg_nst."),
        ("stvg_nst/heavy/back.py", "from stvg_nst.tubes import f", "rooms in a circle: stvg_nst."),
        ("callbacks/utils.py", "", "callbacks.utils: a thing without a home"),
        ("stvg_nst/misc/a.py", "", "stvg_nst.misc.a: a thing without a home"),
        ("stvg_nst/a.py", "x = 1\nprint(x)", "stvg_nst.a:2: print() in library code"),
        ("callbacks/a.py", "try:\n    pass\nexcept Exception:\n    pass", "callbacks.a:3: catches Exception"),
        ("callbacks/a.py", "path.write_text('x')", "callbacks.a:1: write_text() writes in place"),
        ("stvg_nst/a.py", "with path.open('wb') as file:\n    pass", "stvg_nst.a:1: open() writes in place"),
        ("callbacks/a.py", "try:\n    pass\nexcept:\n    pass", "callbacks.a:3: catches everything"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, path: str, source: str, message: str) -> None:
    plant(tmp_path, {path: source})
    found = violations(tmp_path)
    assert any(message in violation for violation in found), found


def test_what_is_allowed_passes(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "stvg_nst/__main__.py": "from stvg_nst.commands import run\nprint('usage')",
            "stvg_nst/commands/run.py": "import callbacks, datamodules\nprint('done')",
            "stvg_nst/commands/predict.py": "from stvg_nst.prediction import load",
            "stvg_nst/__init__.py": "if TYPE_CHECKING:\n    from stvg_nst.prediction import load",
            "stvg_nst/types.py": "",
            "stvg_nst/prediction/__init__.py": "import torch\nfrom datamodules.video import read",
            "stvg_nst/commands/__init__.py": "",
            "stvg_nst/report/table.py": "import json\nfrom stvg_nst.results.was import score\nprint(1)",
            "stvg_nst/results/was.py": "import math",
            "datamodules/video.py": "import av\nfrom stvg_nst import types\nfrom stvg_nst.boxes import f",
            "datamodules/quality.py": "from stvg_nst.results.conditions import MIXED",
            "datamodules/base.py": "from .video import read\nfrom . import video",
            "callbacks/a.py": "from stvg_nst.tubes import decode\ntry:\n    pass\nexcept OSError:\n    pass",
        },
    )
    assert violations(tmp_path) == []


def plant(root: Path, files: dict[str, str]) -> None:
    """A small sound tree, and ``files`` over it."""
    sound = {
        "stvg_nst/__init__.py": "",
        "stvg_nst/boxes.py": "import torch",
        "stvg_nst/tubes.py": "from .boxes import f\nfrom .heavy.light import g",
        "stvg_nst/report/__init__.py": "",
        "stvg_nst/heavy/__init__.py": "import lightning",
        "stvg_nst/heavy/light.py": "",
        "datamodules/__init__.py": "",
        "callbacks/__init__.py": "",
    }
    for name, source in {**sound, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(source)
