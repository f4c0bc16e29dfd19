"""What a clip costs on its way from the file to the network, and what a cache of frames saves: `make bench-data`.

Writes an H.264 file of 20 seconds and 640 x 360 pixels, and one of 120, and loads 64 frames of them as a run does.
Single stages are timed in seconds of one processor, whole loaders by the clock, all with files that the system has in
memory. Numbers are medians over repetitions. What is compared takes turns.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is loaded

import argparse
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, median
from typing import Any

import av
import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader

from datamodules.caches.frames import FrameCache, FramesOfClip, write_frames
from datamodules.clips import ClipDataset, collate, limit_threads
from datamodules.degradation.kinds import DEGRADATIONS, SEVERITIES
from datamodules.degradation.severities import degrade
from datamodules.pixels import PixelSource
from datamodules.quality import Draw, MixedQualityPlan
from datamodules.records import Record
from datamodules.sampling import EvenFrames
from datamodules.transforms import Resize, to_network
from datamodules.video import read_frames, write_video
from stvg_nst.types import Degradation, Tube

FPS, SIZE = 25, (360, 640)
SECONDS, LONGER = 20, 6
CHOOSE = EvenFrames(64)
RESIZE = Resize(420, antialias=True)  # as for HC-STVG
BATCH = 2
FFMPEG = shutil.which("ffmpeg")

DECODE = "decode the frames"
CACHED = "read them from the cache"
HAND_OVER = f"hand over {BATCH} clips"
ON_DEVICE = ", to be finished on a device"
WHOLE = "all frames, ffmpeg's pipe" if FFMPEG else "all frames, PyAV (there is no ffmpeg)"

Work = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seconds", type=int, default=SECONDS, help="of the shorter file; the other is six times as long"
    )
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--clips", type=int, default=4, help="of a loader's epoch, every other one degraded")
    options = parser.parse_args()
    limit_threads(0)
    console = Console(highlight=False, width=110)
    with tempfile.TemporaryDirectory() as name:
        short = write_scene(Path(name) / "short.mp4", options.seconds)
        long = repeat(short, Path(name) / "long.mp4", times=LONGER)
        records = [replace(short, item_id=f"{i}", clip_id=f"{i}") for i in range(options.clips)]
        cache = write_cache(Path(name) / "frames", records)
        rate = short.video.stat().st_size * 8e-6 / options.seconds
        console.print(
            f"{options.seconds} s of {SIZE[1]} x {SIZE[0]}, {FPS} frames and {rate:.1f} Mbit a second; "
            f"{len(CHOOSE(short))} frames a clip; {os.cpu_count()} cores; medians of {options.repetitions}"
        )
        stages = measure(stages_of(short, cache), options.repetitions, processor_time)
        degradations = measure(degradations_of(short), options.repetitions, processor_time)
        console.print(stage_table({**stages, "D, its mean": mean(degradations.values())}))
        console.print(degradation_table(degradations, stages[DECODE]))
        console.print(
            loader_table(measure(loaders_of(records, cache), options.repetitions, time.perf_counter), len(records))
        )
        console.print(memory_table(short, long))


def measure(works: Mapping[str, Work], repetitions: int, clock: Callable[[], float]) -> dict[str, float]:
    """Median seconds of each work; one round before the first is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repetitions + 1):
        for name, work in works.items():
            start = clock()
            work()
            seconds[name].append(clock() - start)
    return {name: median(values[1:]) for name, values in seconds.items()}


def processor_time() -> float:
    """Of this process and of those that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


# --- what is measured -----------------------------------------------------------------------------------------------


def stages_of(record: Record, cache: FrameCache) -> dict[str, Work]:
    frames = decode(record)
    whole, unfinished = dataset([record], cache), dataset([record], cache, finished=False)
    clip, bytes_of_clip = whole[Draw(0, None)], unfinished[Draw(0, None)]
    return {
        WHOLE: lambda: decode_whole(record),
        DECODE: lambda: decode(record),
        CACHED: lambda: PixelSource(cache).read(record, CHOOSE(record), None),
        "transform": lambda: to_network(frames, RESIZE),
        HAND_OVER: lambda: collate([clip] * BATCH).share_memory_(),
        HAND_OVER + ON_DEVICE: lambda: collate([bytes_of_clip] * BATCH).share_memory_(),
        "a cached clip": lambda: collate([whole[Draw(0, None)]]).share_memory_(),
        "a cached clip" + ON_DEVICE: lambda: collate([unfinished[Draw(0, None)]]).share_memory_(),
    }


def degradations_of(record: Record) -> dict[str, Work]:
    frames = decode(record)
    return {
        f"{kind}:{severity}": lambda kind=kind, severity=severity: degrade(frames, Degradation(kind, severity, 0))
        for kind in DEGRADATIONS
        for severity in SEVERITIES
    }


def loaders_of(records: list[Record], cache: FrameCache) -> dict[str, Work]:
    """Epochs of loaders, whose processes have started before; every other clip is degraded."""
    plan = MixedQualityPlan(0)
    draws = [Draw(i, plan.evaluation_degradation(r.clip_id) if i % 2 else None) for i, r in enumerate(records)]
    works: dict[str, Work] = {}
    for workers in (1, 2):
        for name, frames, finished in (("decoded", None, True), ("cached", cache, True), ("device", cache, False)):
            loader = DataLoader(
                dataset(records, frames, finished=finished),
                batch_size=BATCH,
                sampler=draws,
                num_workers=workers,
                collate_fn=collate,
                worker_init_fn=limit_threads,
                persistent_workers=True,
            )
            works[f"{name}:{workers}"] = lambda loader=loader: [len(batch) for batch in loader]
    return works


def peak_memory(record: Record, whole: bool, answers: Any) -> None:
    """Answers with the peak memory of this process, in MiB, before and after it has read a clip."""
    limit_threads(0)
    read_frames(record.video, (0,))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if whole:
        decode_whole(record)
    else:
        dataset([record], None)[Draw(0, Degradation("motion_blur", 5, 0))]
    answers.put((before / 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def own_memory(record: Record, finished: bool, answers: Any) -> None:
    """Answers with what this process shares with no other, in MiB, before and after it has made a batch, half LQ."""
    limit_threads(0)
    before = private_mebibytes()
    clips = dataset([record], None, finished=finished)
    made = collate([clips[Draw(0, degradation)] for degradation in (None, Degradation("motion_blur", 5, 0))])
    answers.put((before, private_mebibytes()))
    assert len(made) == BATCH  # held until it is measured


def private_mebibytes() -> float:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def decode(record: Record) -> np.ndarray:
    return read_frames(record.video, CHOOSE(record))


def decode_whole(record: Record) -> np.ndarray:
    """All frames at once, as the original code gets them: through a pipe from ffmpeg, or else from its library."""
    if FFMPEG is None:
        with av.open(str(record.video)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    command = [FFMPEG, "-v", "error", "-threads", "1", "-i", record.video, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    shown = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(shown, np.uint8).reshape(-1, *SIZE, 3)


def dataset(records: list[Record], frames: FrameCache | None, *, finished: bool = True) -> ClipDataset:
    return ClipDataset(records, CHOOSE, RESIZE, PixelSource(frames), None, finished=finished)


# --- what it is measured on -----------------------------------------------------------------------------------------


def write_scene(path: Path, seconds: int) -> Record:
    """A camera that wanders over a textured ground, with a little noise on every frame."""
    generator = np.random.default_rng(0)
    ground = cv2.GaussianBlur(generator.integers(0, 256, (720, 1280, 3), dtype=np.uint8), (0, 0), 2)
    ground = cv2.normalize(ground, None, 0, 255, cv2.NORM_MINMAX)

    def frames() -> Iterator[np.ndarray]:
        for index in range(seconds * FPS):
            x, y = int(300 + 250 * np.sin(index / 40)), int(180 + 150 * np.cos(index / 33))
            noise = generator.integers(-4, 5, (*SIZE, 1))
            yield np.clip(ground[y : y + SIZE[0], x : x + SIZE[1]] + noise, 0, 255).astype(np.uint8)

    write_video(path, frames(), FPS)
    return record_of(path, seconds * FPS)


def repeat(record: Record, path: Path, *, times: int) -> Record:
    """The same file again and again, without coding it anew."""
    with av.open(str(path), "w") as target:
        stream, shift = None, 0
        for _ in range(times):
            with av.open(str(record.video)) as source:
                stream = stream or target.add_stream_from_template(source.streams.video[0])
                length = round(record.num_frames / FPS / source.streams.video[0].time_base)
                for packet in source.demux(video=0):
                    if packet.size:
                        packet.stream, packet.pts, packet.dts = stream, packet.pts + shift, packet.dts + shift
                        target.mux(packet)
                shift += length
    return record_of(path, times * record.num_frames)


def record_of(video: Path, num_frames: int) -> Record:
    target = Tube(0, 1, torch.tensor([[0.0, 0.0, 9.0, 9.0]]))
    return Record("0", "0", video, "who?", "interrogative", target, (0, num_frames), num_frames, FPS, SIZE)


def write_cache(folder: Path, records: list[Record]) -> FrameCache:
    clips = [FramesOfClip(record.clip_id, record.video, CHOOSE(record), SIZE) for record in records]
    write_frames(folder, {}, clips, workers=1)
    return FrameCache(folder, {})


# --- tables ---------------------------------------------------------------------------------------------------------


def stage_table(stages: Mapping[str, float]) -> Table:
    table = table_of("stage", "clips a second", "ms a clip", f"of '{DECODE}'")
    for name, seconds in stages.items():
        seconds /= BATCH if name.startswith(HAND_OVER) else 1
        table.add_row(name, f"{1 / seconds:.1f}", f"{1e3 * seconds:.0f}", f"{seconds / stages[DECODE]:.2f}")
    return table


def degradation_table(works: Mapping[str, float], decoding: float) -> Table:
    table = table_of(f"D, of '{DECODE}'", *(f"severity {severity}" for severity in SEVERITIES), "mean")
    for kind in DEGRADATIONS:
        shares = [works[f"{kind}:{severity}"] / decoding for severity in SEVERITIES]
        table.add_row(kind, *(f"{share:.2f}" for share in [*shares, mean(shares)]))
    return table


def loader_table(works: Mapping[str, float], num_clips: int) -> Table:
    table = table_of("loader, half LQ: clips a second", "decoded", "cached", "faster by", "for a device", "faster by")
    for workers in (1, 2):
        decoded, cached, device = (works[f"{name}:{workers}"] for name in ("decoded", "cached", "device"))
        rates = [f"{num_clips / decoded:.2f}"]
        for seconds in (cached, device):
            rates += [f"{num_clips / seconds:.2f}", f"{decoded / seconds:.1f}"]
        table.add_row(f"{workers} worker{'s' * (workers > 1)}", *rates)
    return table


def memory_table(short: Record, long: Record) -> Table:
    context = get_context("forkserver")
    table = table_of(
        "peak memory of a worker, MiB", "before", f"{short.num_frames // FPS} s", f"{long.num_frames // FPS} s"
    )
    for name, whole in (("a clip, degraded and resized", False), (WHOLE, True)):
        peaks = []
        for record in (short, long):
            answers = context.SimpleQueue()
            process = context.Process(target=peak_memory, args=(record, whole, answers))
            process.start()
            peaks.append(answers.get())
            process.join()
        table.add_row(name, *(f"{value:.0f}" for value in (peaks[0][0], peaks[0][1], peaks[1][1])))
    for name, finished in (("a batch, finished", True), ("a batch" + ON_DEVICE, False)):
        answers = get_context("fork").SimpleQueue()
        process = get_context("fork").Process(target=own_memory, args=(short, finished, answers))
        process.start()
        table.add_row(f"of a forked one its own: {name}", *(f"{value:.0f}" for value in answers.get()), "")
        process.join()
    return table


def table_of(first: str, *others: str) -> Table:
    table = Table()
    table.add_column(first)
    for other in others:
        table.add_column(other, justify="right")
    return table


if __name__ == "__main__":
    main()
