"""What lies in a run's folder, by name: ``folder / RunFile.RESULTS``."""

from __future__ import annotations


class RunFile:
    """Names of what a run, its study and commands about it leave in the folder that ``--run`` names."""

    # What the command line and the callbacks leave.
    CONFIG = "config.yaml"  # of the fit
    VALIDATE_CONFIG = "validate.yaml"
    TEST_CONFIG = "test.yaml"
    CHECKPOINTS = "checkpoints"  # a folder
    LAYERS = "layers.txt"  # what a fit tunes, every layer
    ADAPTER_LAST = "adapter_last.safetensors"  # after each validation
    ADAPTER = "adapter.safetensors"  # of a fit that is complete
    PREDICTIONS = "predictions.json"
    GROUND_TRUTH = "ground_truth.json"
    RESULTS = "results.json"
    TUBES = "tubes.png"
    CERTIFICATE = "certificate.json"

    # What a study keeps of its runs.
    POINT = "point.yaml"  # what the run was asked for
    SETTINGS = "settings.yaml"  # what one of several tests has otherwise
    WEIGHTS_SUM = "weights.sha256"  # as `sha256sum` writes and checks it
    LOG = "log.txt"
    FAILURE = "failure.txt"  # why the last attempt failed, in one line
    DIVERGENCE = "diverged.txt"  # how the training diverged, in one line
