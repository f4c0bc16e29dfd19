"""`python -m stvg_nst COMMAND`: the table of commands, and how one ends that cannot go on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from stvg_nst.command_line.arguments import nearest
from stvg_nst.command_line.failures import Failures
from stvg_nst.command_line.shadows import refuse_shadows
from stvg_nst.commands.old_words import present_command, present_options
from stvg_nst.machine.cores import limit_threads
from stvg_nst.machine.systems import refuse_other_systems

PROGRAM = "python -m stvg_nst"
# A command's name, its place below `stvg_nst.commands`, and what it does. Only the module of the one that is called is
# loaded: `report` and `--help` should not wait for torch.
GROUPS = {
    "": {
        "predict": ("predict:predict", "find what a sentence describes in your own video; --table for many"),
        "demo": ("demo:demo", "serve a web page: a frozen and a tuned model side by side, on clean and degraded film"),
        "export": ("weights:export", "write a tuned grounder as one file, for predict and for Python"),
        "tune": ("tune:tune", "tune a model on a folder of your own clips, and compare it with the frozen one"),
        "fit": ("run:fit", "tune a grounder on a data set; --config overlays choose tuner, grounder and data"),
        "validate": ("run:validate", "measure a grounder on the validation split"),
        "test": ("run:test", "measure a grounder on the test split, beside a --model.baseline"),
        "cache features": ("cache:features", "store the outputs of the frozen visual encoders for a data set"),
        "cache frames": ("cache:frames", "store the sampled frames of a data set, so that later epochs do not decode"),
        "layers": ("layers:layers", "list the null space of every layer, and which of them a strategy selects"),
        "data verify": ("data:verify", "find what would spoil a run in a data set's files"),
        "data stats": ("data:stats", "count and draw what a split holds"),
        "data synthetic": ("data:synthetic", "write a small made-up data set in a published layout, to try things on"),
        "degrade video": ("degrade:video", "show what a degradation does to a video"),
        "degrade dataset": ("degrade:dataset", "write the LQ counterpart of a data set as files"),
        "share": ("share:share", "send a run's adapter to the Hugging Face hub, with a model card"),
        "report": ("report:report", "print the table of all results below a folder"),
        "certify": ("certify:certify", "measure how far a tuned model is still the frozen one, and what is guaranteed"),
        "study": ("study:study", "run a grid of points and seeds, and compare its points"),
        "budget": ("study:budget", "list what each point of a study adapts and trains, without training"),
        "workload": ("workload:workload", "count the clips of studies on real data, and the GPU-hours that they take"),
        "choose": ("study:choose", "write down the settings that a search found best on the validation split"),
        "tables": ("study:tables", "make the paper's tables and figures from the runs of a study"),
        "epoch": ("epoch:epoch", "compute how long an epoch takes on some numbers of cards"),
        "doctor": ("doctor:doctor", "say what this machine can do, and what an experiment lacks on it"),
        "evaluate": ("evaluate:evaluate", "score the predictions of any model, from files, by the field's protocols"),
    },
    "weights of CG-STVG and TubeDETR at full size (docs/weights.md):": {
        "convert": ("weights:convert", "write an official checkpoint as weights of this suite"),
        "initialise": ("weights:initialise", "write what their training starts from: MDETR's, Video Swin's, RoBERTa's"),
    },
    "to train a miniature grounder from scratch (`make pretrain` runs them in order):": {
        "vocabulary": ("pretrain:vocabulary", "write its tokenizer and its text encoder's configuration"),
        "encoders": ("pretrain:encoders", "pretrain its visual encoders"),
        "grounding": ("pretrain:grounding", "pretrain its grounding model (takes the options of fit)"),
        "boxes": ("pretrain:boxes", "train it further, with a loss on boxes (takes the options of fit)"),
    },
}
COMMANDS = {name: place for group in GROUPS.values() for name, (place, _) in group.items()}
FAMILIES = {name.partition(" ")[0] for name in COMMANDS if " " in name}


def main() -> int:
    with Failures() as failures:
        failures.status = _run(sys.argv[1:])
    return failures.status


def _run(words: Sequence[str]) -> int:
    named = [word for word in words if word not in ("-h", "--help")]
    if not named or (len(named) == 1 and named[0] in FAMILIES):
        print(_usage(*named))
        return 0 if len(words) > len(named) else 2
    words = present_command(words)
    length = 2 if words[0] in FAMILIES else 1
    name = " ".join(words[:length])
    if name not in COMMANDS:
        print(f"error: unknown command '{name}'{nearest(name, COMMANDS)}; see {PROGRAM} --help", file=sys.stderr)
        return 2
    refuse_other_systems()
    refuse_shadows()
    limit_threads()
    return _load(COMMANDS[name])(present_options(name, words[length:]), f"{PROGRAM} {name}")


def _usage(family: str = "") -> str:
    """The commands, or those of a family."""
    text = f"usage: {PROGRAM} {family}{' ' * bool(family)}COMMAND [--help] ...\n"
    for title, group in GROUPS.items():
        rows = [f"  {name:16} {words}" for name, (_, words) in group.items() if name.startswith(family)]
        text += "\n".join(["", *filter(None, [title]), *rows, ""]) if rows else ""
    return f"{text}\nCOMMAND --help says more."


def _load(place: str) -> Callable[[Sequence[str], str], int]:
    module, _, function = place.partition(":")
    command: Callable[[Sequence[str], str], int] = getattr(import_module(f"stvg_nst.commands.{module}"), function)
    return command


if __name__ == "__main__":
    sys.exit(main())
