"""What CG-STVG costs at full size, stage by stage, and how much of it fits a card: `make bench-model`.

Each case runs in a process of its own, whose peak of memory is the case's. Weights are random, which costs the same.
The budget at the end is the bytes of all tensors alive at once, counted on tensors without values for clips of 8 and of
16 frames, and drawn out to longer ones.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import resource
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from stvg_nst.models import CGSTVG
from stvg_nst.models.blocks.vocabulary import write_stand_in
from stvg_nst.models.cgstvg import windows
from stvg_nst.tuning import LoRA, NullSpaceTuning, Tuner
from stvg_nst.types import BackboneFeatures, GroundingOutput

QUERY = "the man in the black coat turns around and walks to the door"
STAGES = {"ResNet": "visual", "VidSwin": "motion", "text": "text", "encoder": "encoder"}
DECODERS = "decoders"
KINDS = "inference", "tuning"
COUNTED = 8, 16  # frames; from 8 on, a window of the video encoder is full
CARDS = 16, 24, 48, 80
RESERVE = 1.0, 0.9  # GiB for the driver's context and libraries, and the share of the rest that an allocator can use


@dataclass(frozen=True)
class Case:
    """What to run, and on what."""

    model: Path
    tuner: Path
    device: str
    precision: str
    clips: int
    frames: int
    height: int
    width: int
    repeats: int
    threads: int

    @property
    def title(self) -> str:
        return f"{self.clips} x {self.frames} x {self.height} x {self.width}, {self.precision}"


@dataclass
class Cost:
    """What it took: seconds by stage and by step, billions of operations by stage, GiB."""

    seconds: dict[str, float] = field(default_factory=dict)
    operations: dict[str, float] = field(default_factory=dict)
    memory: float = 0.0
    parameters: dict[str, int] = field(default_factory=dict)
    trainable: dict[str, int] = field(default_factory=dict)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make and that are alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self.count(value)
        return result

    def count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self._known:
            self._known.add(storage)
            weakref.finalize(storage, self._release, storage.nbytes())
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)

    def restart(self) -> int:
        """The peak so far; from here on, a new one is looked for."""
        peak, self.peak = self.peak, self.live
        return peak

    def _release(self, size: int) -> None:
        self.live -= size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("experiments/model/cgstvg.yaml"))
    parser.add_argument("--tuner", type=Path, default=Path("experiments/tuner/nst.yaml"), help="an overlay of NST")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--clips", type=int, nargs="+", default=[1, 2], help="sizes of a batch")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, default=[224, 313], metavar=("H", "W"))
    parser.add_argument("--budget-size", type=int, nargs=2, default=[420, 588], metavar=("H", "W"))
    parser.add_argument("--budget-frames", type=int, nargs="+", default=[32, 64], help="lengths to count the memory of")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=("cost", "budget"), nargs="+", default=["cost", "budget"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_stand_in([QUERY], Path(folder))
        model = Path(folder) / "model.yaml"
        model.write_text(yaml.safe_dump(with_text(options.model, folder)))
        size = options.frames, *options.size
        common = model, options.tuner, options.device
        cases = [
            Case(*common, precision, clips, *size, options.repeats, options.threads)
            for precision in options.precision
            for clips in options.clips
        ]
        kind = "processor" if options.device == "cpu" else "wall"
        print(
            f"{device_name(options.device)}, {kind} seconds, median of {options.repeats}, {options.threads} thread(s)\n"
        )
        if "cost" in options.only:
            print_tuning(print_costs_as_measured(cases))
        if "budget" in options.only:
            height, width = options.budget_size
            long = [replace(case, clips=1, height=height, width=width) for case in cases[:: len(options.clips)]]
            counted = [(case, apart(live_bytes, replace(case, device="cpu"))) for case in long]
            print_budget(counted, options.budget_frames)


def apart(work: Callable[[Case], Any], case: Case) -> Any:
    """Runs in a fresh process, so that a peak of memory is nobody else's; one that dies is an error here."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, case).result()


# --- what is measured ----------------------------------------------------------------------------------------------


def measure(case: Case) -> Cost:
    grounder = build(case)
    frames, mask = clip(case)
    cost = Cost(parameters=parameters(grounder))
    with torch.inference_mode(), precision_of(case):
        cost.seconds = stage_seconds(case, grounder, frames, mask)
        cost.memory = peak_memory(case)
        cost.operations = operations(grounder, frames, mask, case)
    with torch.no_grad(), precision_of(case):
        features = grounder.encode(frames, mask)
    nst = build_tuner(case)
    rivals = {"NST": nst, "LoRA": LoRA(targets=nst.targets, rank=nst.rank, alpha=nst.rank)}
    models = {"frozen": grounder} | {name: tuned(grounder, tuner) for name, tuner in rivals.items()}
    cost.trainable = {name: trainable(models[name]) for name in rivals}
    work: dict[str, Callable[[], None]] = {
        f"inference {name}": lambda model=model: infer(case, model, features, mask) for name, model in models.items()
    }
    work |= {
        f"step {name}": lambda model=models[name], tuner=tuner: step(case, model, tuner, features, mask)
        for name, tuner in rivals.items()
    }
    cost.seconds |= turns(case, work)
    return cost


def stage_seconds(case: Case, grounder: CGSTVG, frames: Tensor, mask: Tensor) -> dict[str, float]:
    """Medians, of the frozen model."""
    rounds: dict[str, list[float]] = {name: [] for name in (*STAGES, DECODERS)}
    for repeat in range(case.repeats + 1):
        with clock(grounder, case) as stages:
            features = grounder.encode(frames, mask)
            start = now(case)
            grounder.ground(features, mask, [QUERY] * case.clips)
            stages[DECODERS] = now(case) - start - stages["text"] - stages["encoder"]
        for name, values in rounds.items():
            values.extend([stages[name]] if repeat else [])  # the first round warms up
    return {name: median(values) for name, values in rounds.items()}


def live_bytes(case: Case) -> dict[tuple[str, int], int]:
    """The most bytes of tensors alive at once, weights and frames included: by what is done, and the clip's length."""
    windows._PIECE.clear()  # a card works on more windows at a time
    grounder, nst = build(case), build_tuner(case)
    nst.inject(grounder)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        forget_values(grounder, fake)
        return {
            (kind, length): peak
            for length in COUNTED
            for kind, peak in zip(KINDS, live(replace(case, frames=length), grounder, nst), strict=True)
        }


def forget_values(grounder: CGSTVG, fake: FakeTensorMode) -> None:
    """Leaves shapes without values: operations on them take no time, and all that they make is counted."""
    for module in grounder.modules():
        for name, parameter in module.named_parameters(recurse=False):
            empty = fake.from_tensor(parameter.detach())
            module.register_parameter(name, nn.Parameter(empty, requires_grad=parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, fake.from_tensor(buffer))


def live(case: Case, grounder: CGSTVG, nst: NullSpaceTuning) -> tuple[int, int]:
    """In inference and in a step of tuning."""
    frames, mask = clip(case)
    with LiveBytes() as counter:
        for tensor in (*grounder.state_dict().values(), frames):
            counter.count(tensor)
        with torch.no_grad(), precision_of(case):
            appearance, motion = grounder.visual(frames), grounder.motion(frames)
        features = BackboneFeatures(appearance, motion, torch.ones(1, *motion.shape[-2:], dtype=torch.bool))
        encoding = counter.restart()
        infer(case, grounder, features, mask)
        inference = counter.restart()
        nst.set_training(grounder, True)
        trained = nst.trainable_parameters(grounder)
        moments = [torch.zeros_like(parameter) for parameter in trained for _ in range(2)]  # AdamW's
        backward(case, grounder, nst, features, mask)
        nst.set_training(grounder, False)
        grounder.zero_grad()
        assert moments
        return max(encoding, inference), max(encoding, counter.peak)


def infer(case: Case, grounder: CGSTVG, features: BackboneFeatures, mask: Tensor) -> None:
    with torch.no_grad(), precision_of(case):
        grounder.ground(features, mask, [QUERY] * len(mask))


def step(case: Case, grounder: CGSTVG, tuner: Tuner, features: BackboneFeatures, mask: Tensor) -> None:
    """Forward, backward and the optimiser."""
    optimizer = torch.optim.AdamW(tuner.trainable_parameters(grounder), lr=0.0)
    tuner.set_training(grounder, True)
    backward(case, grounder, tuner, features, mask)
    optimizer.step()
    grounder.zero_grad()
    tuner.set_training(grounder, False)


def backward(case: Case, grounder: CGSTVG, tuner: Tuner, features: BackboneFeatures, mask: Tensor) -> None:
    """Forward and backward, on a stand-in for the grounding loss that reaches every output."""
    with precision_of(case):
        output = grounder.ground(features, mask, [QUERY] * len(mask))
        extra = tuner.auxiliary_losses(torch.arange(len(mask), device=mask.device) % 2)
        (total(output) + sum(extra.values())).backward()


def total(output: GroundingOutput) -> Tensor:
    return torch.stack([part.float().square().mean() for part in output.answers.values()]).sum()


# --- how -------------------------------------------------------------------------------------------------------------


def with_text(model: Path, folder: str) -> dict[str, Any]:
    """The overlay, its text encoder from a folder."""
    content = yaml.safe_load(model.read_text())
    content["model"]["grounder"]["init_args"]["text"]["init_args"]["source"] = folder
    return content


def build(case: Case) -> CGSTVG:
    torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(CGSTVG, "grounder")
    overlay = yaml.safe_load(case.model.read_text())["model"]["grounder"]
    return parser.instantiate(parser.parse_object({"grounder": overlay})).grounder.to(case.device).eval()


def build_tuner(case: Case) -> NullSpaceTuning:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Tuner, "tuner")
    overlay = yaml.safe_load(case.tuner.read_text())["model"]["tuner"]
    tuner = parser.instantiate(parser.parse_object({"tuner": overlay})).tuner
    if not isinstance(tuner, NullSpaceTuning):
        raise SystemExit(f"expected an overlay of NullSpaceTuning in {case.tuner}, got {type(tuner).__name__}")
    return tuner


def clip(case: Case) -> tuple[Tensor, Tensor]:
    frames = torch.randn(case.clips, case.frames, 3, case.height, case.width, device=case.device)
    return frames, torch.ones(frames.shape[:2], dtype=torch.bool, device=case.device)


def tuned(grounder: CGSTVG, tuner: Tuner) -> CGSTVG:
    """A copy under the tuner, without the visual encoders: all see the same features."""
    model = copy.deepcopy(grounder, {id(part): nn.Identity() for part in grounder.backbones()})
    tuner.inject(model)
    return model.to(next(grounder.parameters()).device)


def trainable(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def parameters(grounder: CGSTVG) -> dict[str, int]:
    """Numbers of them by stage; what is in none is the decoders' and the heads'."""
    counts = {name: sum(p.numel() for p in grounder.get_submodule(path).parameters()) for name, path in STAGES.items()}
    return counts | {DECODERS: sum(p.numel() for p in grounder.parameters()) - sum(counts.values())}


def precision_of(case: Case) -> torch.autocast:
    return torch.autocast(case.device, dtype=torch.bfloat16, enabled=case.precision == "bf16")


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else device


def now(case: Case) -> float:
    """Seconds: of the processor on a CPU, which a busy machine does not stretch; of the clock on a card."""
    if case.device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


@contextmanager
def clock(grounder: CGSTVG, case: Case) -> Iterator[dict[str, float]]:
    """Seconds spent in each stage that is a module of its own."""
    seconds = dict.fromkeys(STAGES, 0.0)

    def enter(name: str) -> Callable[..., None]:
        return lambda module, inputs: seconds.__setitem__(name, seconds[name] - now(case))

    def leave(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: seconds.__setitem__(name, seconds[name] + now(case))

    hooks = []
    for name, path in STAGES.items():
        module = grounder.get_submodule(path)
        hooks += [module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave(name))]
    yield seconds
    for hook in hooks:
        hook.remove()


def operations(grounder: CGSTVG, frames: Tensor, mask: Tensor, case: Case) -> dict[str, float]:
    """Billions of additions and multiplications by stage, counted on the first frames of one clip."""
    # The counter does not know the CPU's fused attention.
    length = min(case.frames, COUNTED[0])
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        grounder(frames[:1, :length], mask[:1, :length], [QUERY])
    counts = counter.get_flop_counts()
    own = {name: sum(counts[f"CGSTVG.{path}"].values()) for name, path in STAGES.items()}
    own[DECODERS] = counter.get_total_flops() - sum(own.values())
    shares = {name: 1.0 if name == "text" else case.frames / length for name in own}
    return {name: case.clips * shares[name] * count / 1e9 for name, count in own.items()}


def peak_memory(case: Case) -> float:
    """GiB: of the process on a CPU, of its tensors on a card."""
    if case.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def turns(case: Case, work: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Median seconds; all take turns, so that a busy machine hits all."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for repeat in range(case.repeats + 1):
        for name, run in work.items():
            start = now(case)
            run()
            seconds[name].extend([now(case) - start] if repeat else [])
    return {name: median(values) for name, values in seconds.items()}


# --- the tables ------------------------------------------------------------------------------------------------------


def print_costs_as_measured(cases: Sequence[Case]) -> list[tuple[Case, Cost]]:
    """Each row appears as soon as its case is measured."""
    names = (*STAGES, DECODERS)
    costs = []
    print_head("clips x T x H x W", *(f"{name} s" for name in names), "all s", "peak GiB")
    for case in cases:
        cost = apart(measure, case)
        costs.append((case, cost))
        seconds = [cost.seconds[name] for name in names]
        print_row(case.title, *(f"{value:.3g}" for value in (*seconds, sum(seconds), cost.memory)))
    case, cost = costs[0]
    counts = [f"{cost.operations[name] / case.clips:.0f}" for name in names]
    print_row("10^9 operations a clip", *counts, f"{sum(cost.operations.values()) / case.clips:.0f}", "")
    rates = [f"{cost.operations[name] / cost.seconds[name]:.0f}" for name in names]
    print_row(f"10^9 operations / s, {case.precision}", *rates, "", "")
    print_row("parameters", *(f"{cost.parameters[name]:,}" for name in names), f"{sum(cost.parameters.values()):,}", "")
    print(f"\nA product of matrices reaches {gemm(case):.0f} x 10^9 operations / s here in fp32.\n")
    return costs


def print_tuning(costs: Sequence[tuple[Case, Cost]]) -> None:
    """The grounding model by itself, and what NST adds to the whole: its visual encoders run once in a step, too."""
    print_head("grounding model", "frozen s", "NST s", "LoRA s", "NST step s", "LoRA step s", "NST adds", "to a step")
    for case, cost in costs:
        columns = ("inference frozen", "inference NST", "inference LoRA", "step NST", "step LoRA")
        frozen, nst, _, nst_step, lora_step = values = [cost.seconds[name] for name in columns]
        encoders = cost.seconds["ResNet"] + cost.seconds["VidSwin"]
        added = (
            f"{(nst - frozen) / (encoders + frozen):+.1%}",
            f"{(nst_step - lora_step) / (encoders + lora_step):+.1%}",
        )
        print_row(case.title, *(f"{value:.3g}" for value in values), *added)
    counts = ", ".join(f"{name} {count:,}" for name, count in costs[0][1].trainable.items())
    print(f"\nNST adds: of the whole inference, and of a whole step beside LoRA's. Trainable parameters: {counts}.\n")


def print_budget(counted: Sequence[tuple[Case, dict[tuple[str, int], int]]], lengths: Sequence[int]) -> None:
    kinds = [(kind, length) for kind in KINDS for length in lengths]
    case = counted[0][0]
    print(f"Computed, not measured: frames of {case.height} x {case.width}.\n")
    print_head("", *(f"{kind}, T = {length}" for kind, length in kinds))
    needs = {case.precision: [need(live, *kind) for kind in kinds] for case, live in counted}
    for precision, parts in needs.items():
        print_row(f"GiB, {precision}", *(f"{fixed:.1f} + {clip:.1f} a clip" for fixed, clip in parts))
    for card in CARDS:
        room = (card - RESERVE[0]) * RESERVE[1]
        for precision, parts in needs.items():
            fit = [max(0, int((room - fixed) / clip)) for fixed, clip in parts]
            print_row(f"clips on {card} GB, {precision}", *map(str, fit))
    print()


def need(live: dict[tuple[str, int], int], kind: str, length: int) -> tuple[float, float]:
    """GiB that any number of clips needs, and that each adds."""
    short, long = COUNTED
    frame = (live[kind, long] - live[kind, short]) / (long - short)
    return (live[kind, short] - short * frame) / 2**30, length * frame / 2**30


def gemm(case: Case) -> float:
    """Billions of operations a second of a large product of matrices: what this machine can do at best."""
    a, b = torch.randn(2, 2048, 2048, device=case.device)
    return 2 * 2048**3 / 1e9 / turns(case, {"product": lambda: a @ b})["product"]


def print_row(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def print_head(*cells: str) -> None:
    print_row(*cells)
    print("|---|" + "---:|" * (len(cells) - 1))


if __name__ == "__main__":
    main()
