"""What is known of a rendered clip: the answer to its sentences, and everything that every actor does."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.ministvg.actors import ACTIONS, Actor, Colour, Shape, Size
from datamodules.ministvg.scene import FPS, FRAME_SIZE, NUM_FRAMES, Scene
from datamodules.ministvg.sentences import Attribute
from stvg_nst.types import Tube

_BOX_DECIMALS = 2  # a hundredth of a pixel
_SHARE_DECIMALS = 3


@dataclass(frozen=True, slots=True)
class ActorAnnotation:
    """One actor over the F frames of its clip.

    Args:
        shape, colour, size: its looks.
        boxes: (F, 4) float32, xyxy, native pixels, tight around the body, its shadow excluded.
        actions: (F,) int64, indices into ``ACTIONS``; 0 is idle.
        visibility: (F,) float32, opacity times (at least) the share of the box that no nearer box covers.
    """

    shape: Shape
    colour: Colour
    size: Size
    boxes: NDArray[np.float32]
    actions: NDArray[np.int64]
    visibility: NDArray[np.float32]

    def __post_init__(self) -> None:
        num_frames = len(self.boxes)
        shapes = (self.boxes.shape, self.actions.shape, self.visibility.shape)
        expected = ((num_frames, 4), (num_frames,), (num_frames,))
        if shapes != expected:
            raise ValueError(f"an actor needs boxes, actions and visibility of shapes {expected}, got {shapes}")


@dataclass(frozen=True, slots=True)
class SceneAnnotation:
    """One clip with its two sentences and its dense ground truth.

    Args:
        clip_id: unique over all splits, e.g. ``tune-00012``.
        file: path of the video.
        num_frames: F, of the video file.
        fps: frames per second of the video file.
        size: (H, W), pixels.
        declarative, interrogative: sentences about the same event.
        asked: the attribute that the interrogative sentence asks for and does not name.
        target: index of the target in ``actors``.
        start, stop: half-open span of the event, native frames.
        actors: all of them, in no particular order.
    """

    clip_id: str
    file: Path
    num_frames: int
    fps: float
    size: tuple[int, int]
    declarative: str
    interrogative: str
    asked: Attribute
    target: int
    start: int
    stop: int
    actors: tuple[ActorAnnotation, ...]

    def __post_init__(self) -> None:
        if not (0 <= self.target < len(self.actors) and 0 <= self.start < self.stop <= self.num_frames):
            raise ValueError(
                f"clip '{self.clip_id}' has {len(self.actors)} actors and {self.num_frames} frames, "
                f"but its target is actor {self.target} over [{self.start}, {self.stop})"
            )
        if any(len(actor.boxes) != self.num_frames for actor in self.actors):
            lengths = [len(actor.boxes) for actor in self.actors]
            raise ValueError(f"every actor of clip '{self.clip_id}' needs {self.num_frames} boxes, got {lengths}")

    def target_tube(self) -> Tube:
        """The answer to both sentences."""
        boxes = self.actors[self.target].boxes[self.start : self.stop]
        return Tube(self.start, self.stop, torch.from_numpy(boxes.copy()))


def annotate(scene: Scene, clip_id: str, file: Path) -> SceneAnnotation:
    """The annotation of a scene that is, or will be, rendered to ``file``."""
    return SceneAnnotation(
        clip_id=clip_id,
        file=file,
        num_frames=NUM_FRAMES,
        fps=float(FPS),
        size=FRAME_SIZE,
        declarative=scene.declarative,
        interrogative=scene.interrogative,
        asked=scene.asked,
        target=scene.event.actor,
        start=scene.event.start,
        stop=scene.event.stop,
        actors=tuple(_annotate_actor(actor) for actor in scene.actors),
    )


def write_annotations(path: Path, annotations: Iterable[SceneAnnotation]) -> None:
    """Write one JSON object a clip and line; videos are named relative to the folder of ``path``."""
    lines = (json.dumps(_to_record(annotation, path.parent)) for annotation in annotations)
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="ascii")


def read_annotations(path: Path) -> tuple[SceneAnnotation, ...]:
    """What :func:`write_annotations` wrote."""
    return tuple(_from_record(record, path.parent) for record in json.loads(path.read_text(encoding="ascii")))


def _annotate_actor(actor: Actor) -> ActorAnnotation:
    return ActorAnnotation(
        shape=actor.looks.shape,
        colour=actor.looks.colour,
        size=actor.looks.size,
        boxes=actor.boxes.round(_BOX_DECIMALS).astype(np.float32),
        actions=np.array([ACTIONS.index(action) for action in actor.actions], dtype=np.int64),
        visibility=actor.visibility.round(_SHARE_DECIMALS).astype(np.float32),
    )


def _to_record(scene: SceneAnnotation, folder: Path) -> dict[str, Any]:
    return {
        "clip_id": scene.clip_id,
        "file": scene.file.relative_to(folder).as_posix(),
        "num_frames": scene.num_frames,
        "fps": scene.fps,
        "size": list(scene.size),
        "declarative": scene.declarative,
        "interrogative": scene.interrogative,
        "asked": scene.asked,
        "target": scene.target,
        "start": scene.start,
        "stop": scene.stop,
        "actors": [
            {
                "shape": actor.shape,
                "colour": actor.colour,
                "size": actor.size,
                "boxes": [[round(float(v), _BOX_DECIMALS) for v in box] for box in actor.boxes],
                "actions": [ACTIONS[action] for action in actor.actions],
                "visibility": [round(float(v), _SHARE_DECIMALS) for v in actor.visibility],
            }
            for actor in scene.actors
        ],
    }


def _from_record(record: dict[str, Any], folder: Path) -> SceneAnnotation:
    actors = tuple(
        ActorAnnotation(
            shape=actor["shape"],
            colour=actor["colour"],
            size=actor["size"],
            boxes=np.array(actor["boxes"], dtype=np.float32),
            actions=np.array([ACTIONS.index(action) for action in actor["actions"]], dtype=np.int64),
            visibility=np.array(actor["visibility"], dtype=np.float32),
        )
        for actor in record["actors"]
    )
    changed = {"file": folder / record["file"], "size": tuple(record["size"]), "actors": actors}
    return SceneAnnotation(**{**record, **changed})
