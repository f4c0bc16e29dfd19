"""The pixels of a MiniSTVG clip: a scene becomes frames, frames become an H.264 file.

Each actor is drawn once, large, with its face, shading and stroke; every frame then places that sprite by one affine
warp, which also smooths its edges. Sprites and layers hold premultiplied RGBA.
"""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from datamodules.ministvg.actors import Actor, Colour, Looks, outline
from datamodules.ministvg.backdrop import Image, paint_backdrop
from datamodules.ministvg.scene import FPS, FRAME_SIZE, NUM_FRAMES, Scene
from stvg_nst.seeding import derive_seed

_PIGMENTS: dict[Colour, tuple[int, int, int]] = {
    "red": (226, 52, 48),
    "yellow": (250, 208, 40),
    "green": (52, 178, 74),
    "blue": (46, 104, 226),
    "purple": (158, 70, 206),
    "white": (244, 244, 240),
}
_SPRITE_SCALE = 2  # sprite pixels for a pixel of the frame: what bilinear sampling can still shrink without aliasing
_DRAWING_SCALE = 2  # drawing pixels for a sprite pixel
_SPRITE_MARGIN = 3  # sprite pixels around the body
_STROKE = 1.3  # pixels of the frame
_BACKDROP_MARGIN = 4  # pixels; more than the camera ever moves
_SHADOW = 0.42  # opacity on the ground
_CRF = 18

_Layer = NDArray[np.uint8]  # (h, w, 4), premultiplied


def render(scene: Scene) -> Image:
    """The frames of a scene, (F, H, W, 3), RGB."""
    size, margin = FRAME_SIZE, _BACKDROP_MARGIN
    rng = np.random.Generator(np.random.PCG64(derive_seed("backdrop", scene.seed)))
    backdrop = paint_backdrop(rng, (size[0] + 2 * margin, size[1] + 2 * margin))
    cast = [(actor, draw_sprite(actor.looks, actor.side)) for actor in sorted(scene.actors, key=lambda a: a.ground[0])]
    shadow = _draw_shadow()
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    frames = np.empty((NUM_FRAMES, *size, 3), dtype=np.uint8)
    for index, frame in enumerate(frames):
        dx, dy = scene.camera[index] - margin
        cv2.warpAffine(backdrop, np.array([[1, 0, -dx], [0, 1, -dy]]), size[::-1], dst=frame, flags=flags)
        for actor, _ in cast:
            _paint_shadow(frame, shadow, actor, index)
        for actor, sprite in cast:
            paint_actor(frame, sprite, actor, index)
    return frames


def draw_sprite(looks: Looks, side: float) -> _Layer:
    """An actor at rest, :data:`_SPRITE_SCALE` times its size in the frame, centred, premultiplied RGBA."""
    scale = _SPRITE_SCALE * _DRAWING_SCALE
    body = int(np.ceil(_SPRITE_SCALE * side)) + 2 * _SPRITE_MARGIN
    extent = body * _DRAWING_SCALE
    unit = side * scale  # drawing pixels for the actor's longer side
    mask = np.zeros((extent, extent), dtype=np.uint8)
    contour = np.round((outline(looks.shape) * unit + extent / 2 - 0.5) * 16).astype(np.int32)
    cv2.fillPoly(mask, [contour], 255, lineType=cv2.LINE_8, shift=4)

    stroke = 2 * round(_STROKE * scale) + 1
    inner = cv2.erode(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (stroke, stroke)))
    inner = cv2.GaussianBlur(inner, (5, 5), 0)

    pigment = np.array(_PIGMENTS[looks.colour], dtype=np.float32)
    y, x = np.indices((extent, extent), dtype=np.float32) / extent - 0.5
    lit = 1.08 - 0.55 * np.maximum(0, x * 0.6 + y) - 0.35 * (x * x + y * y)
    fill = pigment * lit[..., None]
    gleam = np.maximum(0, 1 - ((x + 0.2) ** 2 + (y + 0.22) ** 2) / 0.045)[..., None]
    fill += (255 - fill) * 0.45 * gleam * gleam
    share = inner.astype(np.float32)[..., None] / 255
    picture = np.clip(fill * share + pigment * 0.32 * (1 - share), 0, 255).astype(np.uint8)
    _draw_face(picture, unit, lift=_FACE_LIFT[looks.shape])

    picture[mask == 0] = 0
    drawing = np.dstack([picture, mask])
    return cv2.resize(drawing, (body, body), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def paint_actor(frame: Image, sprite: _Layer, actor: Actor, index: int) -> None:
    """Lay the sprite over one frame, in place, in the actor's pose of frame ``index``."""
    angle, stretch = actor.motion.angles[index], actor.motion.stretches[index]
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    _paint(frame, sprite, turn * (stretch / _SPRITE_SCALE), actor.centres[index], actor.motion.opacities[index])


def write_clip(frames: Image, path: Path) -> None:
    """Encode frames (F, H, W, 3), RGB, as H.264 (yuv420p) in MP4.

    One thread, no B-frames and no time stamp of the writing: the same frames give the same bytes.
    """
    height, width = frames.shape[1:3]
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        options = {"crf": str(_CRF), "preset": "veryfast", "bf": "0", "threads": "1"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


_FACE_LIFT = {"circle": 0.04, "square": 0.04, "triangle": -0.14, "star": 0.0, "heart": 0.06}
"""How far above the centre the eyes sit, as a share of the side: where the shape is wide enough for them."""


def _draw_face(picture: Image, unit: float, *, lift: float) -> None:
    """Two eyes and a mouth: charm, and what makes the rotation of a circle visible."""

    def at(x: float, y: float) -> tuple[int, int]:
        return round(picture.shape[1] / 2 + x * unit), round(picture.shape[0] / 2 + (y - lift) * unit)

    white, ink = (250, 250, 250), (28, 24, 36)
    for side in (-1, 1):
        cv2.ellipse(picture, at(0.135 * side, 0), (int(0.085 * unit), int(0.11 * unit)), 0, 0, 360, ink, thickness=-1)
        cv2.circle(picture, at(0.135 * side - 0.03, -0.04), int(0.034 * unit), white, thickness=-1)
    cv2.ellipse(
        picture, at(0, 0.13), (int(0.09 * unit), int(0.06 * unit)), 0, 20, 160, ink, thickness=int(0.045 * unit)
    )


def _draw_shadow() -> _Layer:
    """A soft black disc of 48 pixels, 32 of them its body."""
    alpha = np.zeros((48, 48), dtype=np.uint8)
    cv2.circle(alpha, (24, 24), 14, 255, thickness=-1)
    layer = np.zeros((48, 48, 4), dtype=np.uint8)
    layer[..., 3] = cv2.GaussianBlur(alpha, (13, 13), 0)
    return layer


def _paint_shadow(frame: Image, shadow: _Layer, actor: Actor, index: int) -> None:
    height = actor.motion.heights[index]
    width = actor.side * actor.motion.stretches[index, 0] * (1 - height / 60)
    form = np.diag([width * 0.96, width * 0.3]) / 32
    place = np.array([actor.centres[index, 0] + 1.0, actor.ground[index] - 0.5])
    _paint(frame, shadow, form, place, _SHADOW * actor.motion.opacities[index] * (1 - height / 40))


def _paint(frame: Image, layer: _Layer, form: NDArray[np.float64], centre: NDArray[np.float64], opacity: float) -> None:
    """Blend ``layer``, mapped by the 2 x 2 matrix ``form`` about its middle onto ``centre``, into ``frame`` itself."""
    size = np.array(layer.shape[1::-1])
    half = np.abs(form) @ (size / 2)
    low = np.maximum(np.floor(centre - half), 0).astype(int)
    high = np.minimum(np.ceil(centre + half), frame.shape[1::-1]).astype(int)
    # From pixels of the patch to pixels of the layer. OpenCV counts from the middle of the first pixel, we from its
    # corner. In steps of 1/256 its interpolation is exact in float32, so that all its code paths round alike.
    inverse = np.round(np.linalg.inv(form) * 256) / 256
    shift = np.round((size / 2 - 0.5 - inverse @ (centre - low - 0.5)) * 256) / 256
    width, height = (int(n) for n in high - low)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    patch = cv2.warpAffine(layer, np.column_stack([inverse, shift]), (width, height), flags=flags).astype(np.float32)
    patch *= opacity
    view = frame[low[1] : high[1], low[0] : high[0]]
    keep = 1 - patch[..., 3:] * np.float32(1 / 255)
    np.copyto(view, view * keep + patch[..., :3] + np.float32(0.5), casting="unsafe")
