from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from stvg_nst.study import StudyError, planned_runs, read_studies
from stvg_nst.study.definition import Primary, study_files

Write = Callable[..., Path]


def test_points_are_overlays_and_overrides_in_one_piece(write: Write, tmp_path: Path) -> None:
    lora = {"overlays": [str(tmp_path / "lora.yaml")], "trainer.max_epochs": 9}
    (study,) = read_studies(write(set={"trainer.max_epochs": 2}, points={"a": {}, "b": {"trainer.lr": 1}, "c": lora}))
    assert (study.title, study.seeds, study.minutes_per_run, study.quick) == ("Two ranks", (0, 1), 3.0, False)
    assert study.baseline["model"] == {"tuner": {"class_path": "ZeroShot"}}
    assert study.baseline["trainer"] == {"max_epochs": 2}
    assert study.points["a"]["model"]["tuner"] == {"class_path": "NST", "init_args": {"rank": 4, "gate": "soft"}}
    assert study.points["b"]["trainer"] == {"max_epochs": 2, "lr": 1}
    assert study.points["c"]["model"]["tuner"] == {"class_path": "LoRA", "init_args": {"rank": 2}}
    assert study.points["c"]["trainer"]["max_epochs"] == 9


def test_quick_cuts_short_and_says_so(write: Write) -> None:
    (study,) = read_studies(write(), quick=True)
    assert (study.seeds, study.minutes_per_run, study.quick) == ((0,), 1.0, True)
    assert study.title == "QUICK: 1 seed, trainer.max_epochs=1. Two ranks"
    assert study.points["rank 8"]["trainer"] == study.baseline["trainer"] == {"max_epochs": 1}


def test_levels_grounders_and_what_was_chosen(write: Write, tmp_path: Path) -> None:
    chosen = tmp_path / "chosen.yaml"
    chosen.write_text("rank 8: {trainer.lr: 7}\nanother study's: {trainer.lr: 8}\n")
    levels = {"few": {"trainer.clips": 2}, "many": {"trainer.clips": 9, "trainer.lr": 6}}
    grounders = {"one": {"trainer.weights": 1}, "two": {"trainer.weights": 2}}
    one, two = read_studies(write(levels=levels, grounders=grounders, chosen=[str(chosen)]))
    assert [*one.points] == ["rank 4, few", "rank 4, many", "rank 8, few", "rank 8, many"]
    assert one.cells["rank 8, many"] == ("rank 8", "many") and one.unchosen == ("rank 4",)
    assert one.unchosen_words == "no search has chosen for rank 4: the settings of the overlays hold"
    assert one.points["rank 8, few"]["trainer"] == {"max_epochs": 4, "weights": 1, "lr": 7, "clips": 2}
    assert two.points["rank 8, many"]["trainer"] == {"max_epochs": 4, "weights": 2, "lr": 6, "clips": 9}
    assert two.baseline["trainer"]["weights"] == 2 and (two.title, two.heading) == ("Two ranks", "Two ranks, two")
    assert two.folder_in(tmp_path) == tmp_path / "two"


def test_searches_choose_different_settings_of_a_point(write: Write, tmp_path: Path) -> None:
    rates, weights = tmp_path / "rates.yaml", tmp_path / "weights.yaml"
    rates.write_text("rank 4: {trainer.lr: 7}\nrank 8: {trainer.lr: 8}\n")
    weights.write_text("rank 8: {trainer.twin: 30}\n")
    (study,) = read_studies(write(chosen=[str(rates), str(weights)]))
    assert study.points["rank 8"]["trainer"] == {"max_epochs": 4, "lr": 8, "twin": 30} and study.unchosen == ()
    weights.write_text("rank 8: {trainer.lr: 30}\n")
    with pytest.raises(StudyError, match=r"weights\.yaml' chooses trainer\.lr for 'rank 8', as a file before it does"):
        read_studies(write(chosen=[str(rates), str(weights)]))


def test_what_a_study_was_made_to_compare(write: Write) -> None:
    (study,) = read_studies(write(primary={"method": "rank 8", "against": ["rank 4"]}))
    assert study.primary == Primary("rank 8", ("rank 4",))
    assert read_studies(write())[0].primary is None
    for against, said in ((["rank 5"], "got 'rank 5'; it has rank 4, rank 8"), ([], "got no other; it has")):
        with pytest.raises(StudyError, match=f"'primary' compares a point with others of the study, {said}"):
            read_studies(write(primary={"method": "rank 8", "against": against}))
    quick = {"points": ["rank 8"]}
    (short,) = read_studies(write(primary={"method": "rank 8", "against": ["rank 4"]}, quick=quick), quick=True)
    assert short.primary is None


def test_a_study_is_made_of_all_files_that_it_names(write: Write, tmp_path: Path) -> None:
    overlays, chosen = [tmp_path / f"{name}.yaml" for name in ("base", "own", "other")], tmp_path / "chosen.yaml"
    chosen.write_text("rank 4: {trainer.lr: 7}\n")
    below = write(overlays=[str(overlays[0])], points={"rank 4": {}, "other": {"overlays": [str(overlays[2])]}})
    below.rename(tmp_path / "below.yaml")
    path = tmp_path / "above.yaml"
    path.write_text(
        f"extends: {tmp_path / 'below.yaml'}\ntitle: Above\nchosen: [{chosen}]\nonly: ['rank 4']\n"
        f"points: {{'rank 4': {{overlays: [{overlays[1]}]}}}}\n"
    )
    (tmp_path / "model.yaml").write_text("config: [base.yaml]\n")
    overlays[1].write_text("config: under.yaml\nmodel: {tuner: tuner.yaml, loss: {init_args: {config: gone.yaml}}}\n")
    (tmp_path / "under.yaml").write_text(f"trainer: ../{tmp_path.name}/own.yaml\n")
    (tmp_path / "tuner.yaml").write_text("config: [model.yaml]\n")
    named = study_files(path)
    inner = {tmp_path / f"{name}.yaml" for name in ("under", "tuner", "model")}
    assert inner < {*named}, "what an overlay names, and what that names, and so on, also in a circle"
    assert {path, tmp_path / "below.yaml", chosen, *overlays[:2]} < {*named} and overlays[2] not in named
    assert len(named) == len(set(named))


def test_a_study_extends_another_file(write: Write, tmp_path: Path) -> None:
    below = write(set={"trainer.max_epochs": 2, "trainer.lr": 1}).rename(tmp_path / "below.yaml")
    path = tmp_path / "above.yaml"
    path.write_text(
        f"extends: {below}\ntitle: Above\nseeds: [7]\nset: {{trainer.lr: 3}}\npoints: {{more: {{trainer.a: 1}}}}"
    )
    (study,) = read_studies(path)
    assert (study.title, study.seeds, [*study.points]) == ("Above", (7,), ["rank 4", "rank 8", "more"])
    assert study.points["rank 4"]["trainer"] == {"max_epochs": 2, "lr": 3}
    path.write_text(path.read_text() + "\nonly: ['*8', more]\n")
    assert [*read_studies(path)[0].points] == ["rank 8", "more"]
    bottom = write(set={"trainer.max_epochs": 1, "trainer.depth": 5}).rename(tmp_path / "bottom.yaml")
    below.write_text(f"extends: {bottom}\nset: {{trainer.max_epochs: 2}}\n")
    assert read_studies(path)[0].points["rank 8"]["trainer"] == {"max_epochs": 2, "lr": 3, "depth": 5}
    assert study_files(path)[:3] == (path, below, bottom)
    bottom.write_text(f"extends: {below}\n")
    with pytest.raises(StudyError, match=r"below\.yaml' extends itself"):
        read_studies(path)


def test_quick_keeps_what_matches(write: Write) -> None:
    quick = {"points": ["*8"], "tests": ["a"], "set": {"trainer.max_epochs": 1}}
    (study,) = read_studies(write(tests={"a": {}, "b": {"trainer.lr": 1}}, quick=quick), quick=True)
    assert [*study.points] == ["rank 8"] and [*study.tests] == ["a"]
    with pytest.raises(StudyError, match=r"none of the points is named 'x'; they are rank 4, rank 8"):
        read_studies(write(quick={"points": ["x"]}), quick=True)


def test_quick_takes_other_overlays_wherever_they_are_listed(write: Write, tmp_path: Path) -> None:
    lora, nst = str(tmp_path / "lora.yaml"), str(tmp_path / "nst.yaml")
    points = {"a": {}, "b": {"overlays": [nst], "trainer.lr": 1}}
    (study,) = read_studies(write(points=points, quick={"instead": {nst: lora}}), quick=True)
    assert {config["model"]["tuner"]["class_path"] for config in study.points.values()} == {"LoRA"}
    assert study.title == "QUICK: 2 seeds. Two ranks"
    with pytest.raises(StudyError, match=r"'instead' replaces 'nowhere\.yaml', which the study does not use"):
        read_studies(write(quick={"instead": {"nowhere.yaml": lora}}), quick=True)


@pytest.mark.parametrize("overlays", [None, "base.yaml", [{"trainer": 1}]])
def test_a_quick_study_says_what_is_no_list_of_overlays(write: Write, overlays: Any) -> None:
    path = write()
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"overlays": overlays}))
    with pytest.raises(StudyError, match=r"'overlays' (is missing|must be a list)"):
        read_studies(path, quick=True)


def test_what_was_chosen_is_settings_of_points(write: Write, tmp_path: Path) -> None:
    chosen = tmp_path / "chosen.yaml"
    chosen.write_text("rank 8: 7\n")
    with pytest.raises(StudyError, match=r"chosen\.yaml' must give 'rank 8' a mapping of dotted names .*, got 7"):
        read_studies(write(chosen=[str(chosen)]))
    chosen.write_text("rank 8: {trainer.lr: 7}\n")
    (study,) = read_studies(write(points=None, seeds=None, published=PUBLISHED, chosen=[str(chosen)]))
    assert study.points == {} and study.unchosen == ()


def test_all_points_take_what_was_chosen_for_one(write: Write, tmp_path: Path) -> None:
    chosen = tmp_path / "chosen.yaml"
    chosen.write_text("NST: {trainer.lr: 7}\nrank 8: {trainer.lr: 8}\n")
    (study,) = read_studies(write(chosen=[str(chosen)], chosen_as="NST"))
    assert [config["trainer"]["lr"] for config in study.points.values()] == [7, 7] and study.unchosen == ()
    chosen.write_text("{}\n")
    assert read_studies(write(chosen=[str(chosen)], chosen_as="NST"))[0].unchosen == ("rank 4", "rank 8")


PUBLISHED = {
    "source": "a paper",
    "protocol": "cgstvg",
    "tolerance": 0.5,
    "numbers": {"HQ/m_vIoU": 38.4},
    "otherwise": ["the weights"],
}


def test_a_study_may_be_a_test_of_its_baseline_alone(write: Write, tmp_path: Path) -> None:
    path = write(points=None, seeds=None, published=PUBLISHED, quick={"minutes_per_run": 1})
    (study,) = read_studies(path)
    assert study.published is not None and study.published.numbers == {"HQ/m_vIoU": 38.4}
    baseline, runs = planned_runs(study, tmp_path)
    assert runs == () and baseline.seed is None
    assert read_studies(path, quick=True)[0].title == "QUICK: cut short. Two ranks"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "mine"}, "'published' names a protocol of half_open, cgstvg"),
        ({"numbers": {"HQ/mAP": 1.0}}, "got 'HQ/mAP': 1.0"),
        ({"numbers": {"HQ/m_vIoU": "38"}}, "got 'HQ/m_vIoU': '38'"),
        ({"numbers": {"HQ/a/b/m_vIoU": 1.0}}, "study.yaml: 'published': expected <view>/<metric>"),
        ({"tolerance": True}, "'tolerance' must be a number, got True"),
        ({"tolerence": 1}, "'published' has an unknown key 'tolerence'; did you mean 'tolerance'"),
    ],
)
def test_published_numbers_are_checked(write: Write, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=re.escape(message)):
        read_studies(write(published=PUBLISHED | changes))


def test_all_points_run_once_before_any_twice(write: Write, tmp_path: Path) -> None:
    baseline, runs = planned_runs(*read_studies(write()), tmp_path)
    assert [str(run) for run in (baseline, *runs)] == [
        "zero-shot",
        "rank 4, seed 0",
        "rank 8, seed 0",
        "rank 4, seed 1",
        "rank 8, seed 1",
    ]
    assert runs[2].folder == tmp_path / "rank-4-seed1" and runs[2].config["seed_everything"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"point": {}}, "the study has an unknown key 'point'; did you mean 'points'?"),
        ({"zzz": 1}, "the study has an unknown key 'zzz'; it knows title, seeds,"),
        ({"quick": {"seed": [0]}}, "quick has an unknown key 'seed'; did you mean 'seeds'?"),
        ({"title": None}, "'title' is missing"),
        ({"title": 3}, "'title' must be text, got 3"),
        ({"seeds": 3}, "'seeds' must be a list, got 3"),
        ({"seeds": [0, 0]}, "different whole numbers from 0 to 4294967295, such as [0, 1, 2], got [0, 0]"),
        ({"seeds": [2**32]}, "got [4294967296]"),
        ({"seeds": [True]}, "got [True]"),
        ({"seeds": []}, "got []"),
        ({"minutes_per_run": 0}, "'minutes_per_run' must be positive and finite, got 0"),
        ({"minutes_per_run": float("nan")}, "got nan"),
        ({"minutes_per_run": True}, "'minutes_per_run' must be a number, got True"),
        ({"primary": {"method": "rank 4", "against": [["rank 8"]]}}, "list of points' names, got ['rank 8']"),
        ({"overlays": [3]}, "'overlays' must be a list of overlays' paths, got [3]"),
        ({"overlays": ["absent.yaml"]}, "absent.yaml: cannot be read: No such file"),
        ({"points": {}}, "'points' is empty"),
        ({"points": {False: {}}}, "a point's name must be text with letters or digits, got False; put it in quotes"),
        ({"points": {"..": {}}}, "got '..'"),
        ({"points": {"a": 3}}, "point 'a' must be a mapping of dotted names to values, {} for none, got 3"),
        ({"points": {"a": {}, "b": {}}}, "points 'a' and 'b' are the same run"),
        ({"points": {"a b": {}, "A  B": {"trainer.lr": 1}}}, "points 'a b' and 'A  B' would share a folder"),
        ({"points": {"a": {"rank": 3}}}, "point 'a': 'rank' is no dotted name"),
        ({"points": {"a": {"seed_everything": 3}}}, "point 'a': the seeds of a study are its 'seeds'"),
        ({"points": {"a": {"model.tunr.rank": 3}}}, "point 'a': 'model.tunr.rank' sets nothing"),
        ({"set": {"trainr.lr": 3}}, "the baseline: 'trainr.lr' sets nothing: the overlays have no section 'trainr'"),
        ({"tests": {"a": {"trainr.lr": 1}}}, "test 'a': 'trainr.lr' sets nothing"),
        ({"tests": {"a": {}, "b": {}}}, "tests 'a' and 'b' are the same run"),
        ({"grounders": {"a": {}, "b": {}}}, "grounders 'a' and 'b' are the same run"),
        ({"grounders": {"a": 3}}, "grounder 'a' must be a mapping of dotted names to values, {} for none, got 3"),
        ({"chosen": ["absent.yaml"]}, "absent.yaml: cannot be read: No such file"),
        ({"tuner": None}, "point 'rank 4' names no tuner; give it 'overlays', or the study 'tuner'"),
    ],
)
def test_a_mistake_is_named_with_its_file(write: Write, changes: dict[str, Any], message: str) -> None:
    path = write(**changes)
    with pytest.raises(StudyError) as error:
        read_studies(path)
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value)


def test_a_point_that_is_given_twice_is_refused(write: Write) -> None:
    path = write()
    path.write_text(path.read_text().replace("rank 8:", "rank 4:"))
    with pytest.raises(StudyError, match="'rank 4' is given twice"):
        read_studies(path)


def test_quick_needs_its_section(write: Write) -> None:
    with pytest.raises(StudyError, match="has no section 'quick'; write one"):
        read_studies(write(quick=None), quick=True)
