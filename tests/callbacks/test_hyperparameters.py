from __future__ import annotations

from typing import Any

import pytest
from tensorboard.plugins.hparams import plugin_data_pb2

from callbacks import HyperparameterSummary
from callbacks.hyperparameters import FIELDS, METRICS, look_up

CONFIG = """
seed_everything: 5
model:
  tuner:
    class_path: stvg_nst.tuning.NullSpaceTuning
    init_args: {rank: 8, targets: [a, b]}
  optimizer:
    class_path: torch.optim.AdamW
    init_args: {lr: 0.001}
data:
  class_path: datamodules.MiniSTVG
  init_args: {batch_size: 4}
trainer: {max_epochs: 2, max_steps: -1}
"""


def declared(run: Any) -> tuple[list[str], list[str], dict[str, Any]]:
    """The fields, the metrics and the run's values, as TensorBoard reads them."""
    metadata = run.events().summary_metadata
    tags = {tag: value.plugin_data.content for tag, value in metadata.items() if tag.startswith("_hparams_")}
    read = plugin_data_pb2.HParamsPluginData.FromString
    experiment = read(tags["_hparams_/experiment"]).experiment
    session = read(tags["_hparams_/session_start_info"]).session_start_info
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in session.hparams.items()}
    return [x.name for x in experiment.hparam_infos], [x.name.tag for x in experiment.metric_infos], values


@pytest.mark.parametrize(("stage", "name"), [("fit", "config.yaml"), ("test", "test.yaml")])
def test_run_enters_the_table_without_made_up_values(run: Any, stage: str, name: str) -> None:
    run.folder.mkdir()
    (run.folder / name).write_text(CONFIG)
    getattr(run, stage)(HyperparameterSummary())
    fields, metrics, values = declared(run)
    assert sorted(fields) == sorted(FIELDS)
    assert metrics == list(METRICS)
    assert values["model.tuner"] == "NullSpaceTuning"
    assert values["model.tuner.rank"] == 8
    assert values["model.optimizer.lr"] == 0.001
    assert values["model.optimizer.weight_decay"] == "none"
    assert values["data"] == "MiniSTVG"
    scalars = run.events().Tags()["scalars"]
    assert "hp_metric" not in scalars
    logged = [point.value for point in run.events().Scalars("test/LQ/m_vIoU" if stage == "test" else "val/LQ/m_vIoU")]
    assert logged == [pytest.approx(50)], "only what the module logged, no placeholder before it"


def test_missing_configuration_says_what_to_do(run: Any) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.yaml or test\.yaml in '.*run', .* leave the callback"):
        run.fit(HyperparameterSummary())


def test_run_without_tensorboard_needs_no_configuration(run: Any) -> None:
    run.test(HyperparameterSummary(), logger=False)


@pytest.mark.parametrize(
    ("field", "expected"),
    [("a.b", 1), ("a.c", "none"), ("k.d", "[1, 2]"), ("k.e", False), ("k", "K"), ("x", "none"), ("a.b.c", "none")],
)
def test_look_up(field: str, expected: Any) -> None:
    config = {"a": {"b": 1, "c": None}, "k": {"class_path": "some.K", "init_args": {"d": [1, 2], "e": False}}}
    assert look_up(config, field) == expected
    assert look_up({"n": {"class_path": "N", "init_args": None}}, "n.q") == "none"
