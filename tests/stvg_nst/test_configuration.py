"""One meaning of a configuration: each case is read by the function that studies use, and through the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ActionConfigFile

from stvg_nst import __main__ as root
from stvg_nst.command_line.overlay_parser import OverlayParser
from stvg_nst.configuration import ConfigurationError, differences, load_yaml, merge, nested, read_overlay, read_yaml
from stvg_nst.module import GroundingModule
from stvg_nst.study import read_studies

NST = """\
model:
  tuner: {class_path: stvg_nst.tuning.NullSpaceTuning, init_args: {targets: ["*.linear2"], rank: 8, gate: hard}}
"""
LORA = "model: {tuner: {class_path: stvg_nst.tuning.LoRA, init_args: {alpha: 4, targets: [mine]}}}"
SCOPELESS = "model: {tuner: {class_path: stvg_nst.tuning.LoRA, init_args: {alpha: 4}}}"
SCOPE = "model: {tuner: {init_args: {targets: [time_decoder]}}}"

# Overlays in their order, and what the tuner, or another part of the model, then is.
MERGED: Mapping[str, tuple[Sequence[str], str, Mapping[str, Any]]] = {
    "another class": ([NST, LORA], "tuner", {"class_path": "LoRA", "targets": ["mine"], "rank": None, "alpha": 4}),
    "its class alone": ([NST, "model: {tuner: ZeroShot}"], "tuner", {"class_path": "ZeroShot", "rank": None}),
    "short": ([LORA, "model: {tuner: {class_path: LoRA, init_args: {rank: 2}}}"], "tuner", {"alpha": 4, "rank": 2}),
    "by its module": (
        [LORA, "model: {tuner: {class_path: stvg_nst.tuning.peft.LoRA, init_args: {rank: 2}}}"],
        "tuner",
        {"class_path": "LoRA", "alpha": 4, "rank": 2},
    ),
    "the same class alone": ([LORA, "model: {tuner: LoRA}"], "tuner", {"alpha": 4}),
    "arguments alone": ([NST, "model: {tuner: {init_args: {rank: 3}}}"], "tuner", {"rank": 3, "gate": "hard"}),
    "no arguments": ([NST, "model: {tuner: {init_args: }}"], "tuner", {"rank": 8, "gate": "hard"}),
    "arguments in short": ([NST, "model: {tuner: {rank: 3}}"], "tuner", {"rank": 3, "gate": "hard"}),
    "a scope over": ([NST, SCOPELESS, SCOPE], "tuner", {"targets": ["time_decoder"], "alpha": 4, "rank": None}),
    "a scope under": ([SCOPE, SCOPELESS], "tuner", {"class_path": "LoRA", "targets": ["time_decoder"], "alpha": 4}),
    "there and back": ([NST, LORA, NST], "tuner", {"gate": "hard", "alpha": None}),
    "a mapping": (
        ["model: {learning_rates: {a.*: 1e-3, b.*: 2}}", "model: {learning_rates: {b.*: 3.0}}"],
        "learning_rates",
        {"a.*": 0.001, "b.*": 3.0},
    ),
    "an optimiser": (
        [
            "model: {optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.5}}}",
            "model: {optimizer: {class_path: torch.optim.SGD, init_args: {momentum: 0.5}}}",
        ],
        "optimizer",
        {"class_path": "SGD", "lr": None, "momentum": 0.5},
    ),
    "a number": (["model: {twin: 1e-3}"], "", {"twin": 1e-3}),
    "a dotted name": ([NST, "model.tuner.rank: 3"], "tuner", {"rank": 3, "gate": "hard"}),
}

TWICE: Mapping[str, str] = {
    "nested": "model:\n  tuner:\n    class_path: LoRA\n    class_path: LoRA\n",
    "at the top": "trainer: {devices: 1}\n\nmodel: {warmup_steps: 3}\ntrainer: {max_epochs: 3}\n",
    "in flow": "\n\n\nmodel: {tuner: {init_args: {rank: 1, rank: 2}}}",
    "in quotes": '\nmodel:\n  "warmup_steps": 1\n  warmup_steps: 2\n',
    "as JSON": '{"model":\n {"warmup_steps": 1,\n\n "warmup_steps": 2}}',
    "merged": "model:\n  tuner:\n    init_args:\n      <<: {rank: 1, rank: 2}\n",
    "beside what is merged": "model:\n  tuner: &t {init_args: {rank: 1}}\n  loss: {<<: *t, a: 1,\n    a: 2}\n",
    "merged twice": "model: {a: &a {b: 1},\n c: {<<: *a,\n\n <<: *a}}",
}

UNREADABLE: Mapping[str, tuple[bytes, str]] = {
    "empty": (b"", "expected a mapping of settings, but it is empty"),
    "a comment": (b"# nothing yet\n", "expected a mapping of settings, but it is empty"),
    "a list": (b"- 1\n", "expected a mapping of settings, got list"),
    "tabs": (b"model:\n\ttuner: 1\n", "line 2: a tab where YAML wants spaces"),
    "no UTF-8": (b"# caf\xe9\nmodel: {warmup_steps: 1}\n", "is no text in UTF-8"),
    "UTF-16": ("model: {warmup_steps: 1}".encode("utf-16"), "is no text in UTF-8"),
    "open": (b"model: [1", "line 1: "),
    "an empty section": (b"trainer:\nmodel: {warmup_steps: 1}\n", "'trainer' is empty"),
    "a section that is a number": (b"trainer: 5\n", "expected settings as 'trainer', got 5"),
    "a section that is a list": (b"model: [{warmup_steps: 1}]\n", "expected settings as 'model', got [{"),
    "a name of no overlay": (b"config:\ntrainer: {devices: 1}\n", "a list of such names as 'config', got None"),
    "a number among overlays": (
        b"config: [3]\n",
        "expected an overlay's name, or a list of such names as 'config', got [3]",
    ),
    "two documents": (b"model: {warmup_steps: 1}\n---\nmodel: {}\n", "line 2: a second document begins here"),
    "what contains itself": (b"model:\n  tuner: &t {a: [*t]}\n", "line 2: it contains itself"),
    "a key that is a list": (b"[a]: 1", "line 1: a key must be text"),
}


@pytest.fixture
def overlay(tmp_path: Path) -> Any:
    def write(text: str | bytes, name: str = "overlay.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.fixture(scope="module")
def parser() -> OverlayParser:
    """What `fit` reads its model with; a whole `fit` takes a second to set up."""
    parser = OverlayParser(prog="fit")
    parser.add_argument("--config", action=ActionConfigFile)
    parser.add_argument("--trainer.max_epochs", type=int)
    parser.add_lightning_class_args(GroundingModule, "model")
    return parser


def parsed_model(parser: OverlayParser, *arguments: str) -> dict[str, Any]:
    base = [f"--config=experiments/model/{name}.yaml" for name in ("mini", "mini_weights")]
    options = parser.parse_args([*base, *arguments])
    return yaml.safe_load(parser.dump(options))["model"]


def fit(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    base = ("base", "data/mini", "model/mini", "model/mini_weights")
    overlays = [f"--config=experiments/{name}.yaml" for name in base]
    monkeypatch.setattr(sys, "argv", ["stvg_nst", "fit", *overlays, *arguments, "--run=never", "--print_config"])
    with pytest.raises(SystemExit) as stop:
        root.main()
    return stop.value.code


def arguments_of(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """Class and arguments side by side, the class without its module."""
    if "class_path" not in part:
        return part
    return {**part.get("init_args", {}), "class_path": part["class_path"].rpartition(".")[2]}


@pytest.mark.parametrize("name", MERGED)
def test_overlays_mean_the_same_on_the_command_line_and_in_a_study(
    parser: OverlayParser, overlay: Any, name: str
) -> None:
    texts, place, expected = MERGED[name]
    paths = [overlay(text, f"{index}.yaml") for index, text in enumerate(texts)]
    merged = reduce(merge, map(read_overlay, paths))["model"]
    tuner = () if place == "tuner" else ("--model.tuner=ZeroShot",)
    parsed = parsed_model(parser, *(f"--config={path}" for path in paths), *tuner)
    in_study, in_run = (arguments_of(model[place] if place else model) for model in (merged, parsed))
    defaults = {"rank": 64, "targets": None, "alpha": 64.0, "lr": 0.001}
    for key, value in expected.items():
        assert in_study.get(key) == value, key
        if value is not None:
            assert in_run[key] == value, key
        elif key in in_run:
            assert in_run[key] == defaults[key], f"{key} of another class"


@pytest.mark.parametrize(
    "option",
    [
        ["--model.tuner=LoRA"],
        ["--model.tuner", "stvg_nst.tuning.LoRA"],
        ["--model.tuner.class_path", "LoRA"],
        ["--model.tuner={class_path: LoRA}"],
        ["--model.tuner", "FILE"],
    ],
)
def test_an_option_that_switches_the_class_drops_the_arguments_as_an_overlay_does(
    parser: OverlayParser, overlay: Any, option: list[str]
) -> None:
    words = [word.replace("FILE", str(overlay("class_path: LoRA", "lora.yaml"))) for word in option]
    tuner = parsed_model(parser, *words, "--model.tuner.targets=[mine]", f"--config={overlay(NST)}")["tuner"]
    assert tuner["class_path"] == "stvg_nst.tuning.LoRA"
    assert tuner["init_args"]["targets"] == ["mine"] and tuner["init_args"]["rank"] == 64, "the rank of LoRA's own"


def test_a_run_s_configuration_lends_another_tuner_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], overlay: Any
) -> None:
    assert fit(monkeypatch, "--config=experiments/tuner/nst.yaml") == 0
    whole = overlay(capsys.readouterr().out, "config.yaml")
    assert fit(monkeypatch, f"--config={whole}", "--config=experiments/tuner/lora.yaml") == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["tuner"]["init_args"]["targets"] is None


@pytest.mark.parametrize(
    "command", [("test",), ("validate", "--run=other"), ("export", "--output=one.safetensors"), ("layers",)]
)
def test_a_run_s_configuration_says_all_that_another_command_asks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], overlay: Any, command: Sequence[str]
) -> None:
    assert fit(monkeypatch, "--config=experiments/tuner/nst.yaml", "--model.tuner.rank=7", "--verbose") == 0
    whole = overlay(capsys.readouterr().out, "config.yaml")
    assert {"run", "ckpt_path", "changed_settings", "verbose"} <= read_yaml(whole).keys()
    monkeypatch.setattr(sys, "argv", ["stvg_nst", *command, f"--config={whole}", "--print_config"])
    with pytest.raises(SystemExit) as stop:
        root.main()
    shown = capsys.readouterr()
    assert stop.value.code == 0, shown.err
    assert yaml.safe_load(shown.out)["model"]["tuner"]["init_args"]["rank"] == 7


@pytest.mark.parametrize("name", TWICE)
def test_a_key_that_is_given_twice_is_an_error_with_file_and_line(overlay: Any, name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"overlay\.yaml, line 4: '.*' is given twice"):
        read_overlay(overlay(TWICE[name]))


def test_a_mapping_goes_over_what_it_merges() -> None:
    assert load_yaml("{a: &a {b: 1, c: 2}, d: {<<: *a, b: 3}}", "here")["d"] == {"b": 3, "c": 2}


@pytest.mark.parametrize(
    "argument",
    [
        "--config=FILE",
        "--config={a: 1, a: 2}",
        "--model.tuner=FILE",
        "--model.loss={class_path: A, class_path: B}",
        "--model.tuner={rank: 1, rank: 2}",
        "--config=OTHER",
        "--config=DOTTED",
    ],
)
def test_a_key_is_given_once_wherever_the_command_line_reads_yaml(
    parser: OverlayParser, capsys: pytest.CaptureFixture[str], overlay: Any, argument: str
) -> None:
    twice = overlay("class_path: LoRA\ninit_args: {rank: 1,\n rank: 2}\n", "twice.yaml")
    other = overlay("model: {tuner: twice.yaml}", "other.yaml")
    dotted = overlay("{trainer.max_epochs: 1, trainer: {max_epochs: 2}}", "dotted.yaml")
    argument = argument.replace("FILE", str(twice)).replace("OTHER", str(other)).replace("DOTTED", str(dotted))
    with pytest.raises(SystemExit, match="2"):
        parsed_model(parser, argument)
    error = capsys.readouterr().err
    assert "is given twice" in error and error.count("\n") == 1
    assert ("twice.yaml, line 3" in error) == (argument.endswith(("twice.yaml", "other.yaml")))


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_overlay_that_cannot_be_read_is_named_in_one_line(overlay: Any, name: str) -> None:
    content, message = UNREADABLE[name]
    with pytest.raises(ConfigurationError) as error:
        read_overlay(overlay(content))
    assert message in str(error.value) and "overlay.yaml" in str(error.value) and "\n" not in str(error.value)


def test_the_command_line_names_a_file_that_it_cannot_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert fit(monkeypatch, "--config", str(tmp_path)) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: cannot be read: Is a directory\n"


def test_a_study_names_a_file_that_it_cannot_read(overlay: Any) -> None:
    study = overlay("{title: T, seeds: [0], minutes_per_run: 1, overlays: [no/such.yaml], baseline: [], points: {}}")
    with pytest.raises(ConfigurationError, match=r"overlay.yaml: no/such.yaml: cannot be read: No such file"):
        read_studies(study)


def test_a_byte_order_mark_is_no_part_of_the_text(overlay: Any) -> None:
    assert read_yaml(overlay(b"\xef\xbb\xbfa: 1")) == {"a": 1}


def test_an_overlay_takes_in_what_it_names(overlay: Any) -> None:
    overlay(LORA, "below.yaml")
    overlay("{class_path: LoRA, init_args: {rank: 2}}", "tuner.yaml")
    assert read_overlay(overlay("{config: below.yaml, model: {tuner: tuner.yaml}}"))["model"]["tuner"] == {
        "class_path": "LoRA",
        "init_args": {"alpha": 4, "targets": ["mine"], "rank": 2},
    }
    with pytest.raises(ConfigurationError, match=r"loop\.yaml: names itself"):
        read_overlay(overlay("{config: loop.yaml}", "loop.yaml"))


def test_numbers_are_read_as_the_command_line_reads_them() -> None:
    text = "{a: 1e-3, b: 2.0e-3, c: 1e5, d: e3, e: 12, f: -4E2, g: 2024-01-31, h: .inf}"
    assert load_yaml(text, "here") == {
        "a": 1e-3,
        "b": 2e-3,
        "c": 1e5,
        "d": "e3",
        "e": 12,
        "f": -400.0,
        "g": "2024-01-31",
        "h": float("inf"),
    }


def test_mappings_are_merged_and_lists_replaced_or_extended() -> None:
    below = {"a": {"class_path": "NST", "init_args": {"rank": 4, "targets": ["a", "b"]}}, "callbacks": ["A"]}
    above = merge(below, nested("a.init_args.targets", ["c"]))
    assert above["a"]["init_args"] == {"rank": 4, "targets": ["c"]}
    assert below["a"]["init_args"]["targets"] == ["a", "b"], "what is merged stays as it was"
    assert merge(below, {"callbacks+": ["B", "C"]})["callbacks"] == ["A", "B", "C"]
    assert merge({}, {"callbacks+": "A"}) == {"callbacks": ["A"]}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_one_may_not_read_is_named(overlay: Any) -> None:
    path = overlay("a: 1")
    path.chmod(0)
    with pytest.raises(ConfigurationError, match="cannot be read: Permission denied"):
        read_yaml(path)


def test_differences_are_named() -> None:
    before, now = {"a": {"b": 1, "c": [1]}, "d": None}, {"a": {"b": 2, "c": [1]}, "e": {}}
    assert differences(before, now) == [
        "a.b: 1 before, 2 now",
        "d: None before, 'absent' now",
        "e: 'absent' before, {} now",
    ]
    assert differences(now, now) == []
