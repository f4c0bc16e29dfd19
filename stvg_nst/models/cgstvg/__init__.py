"""Clean-room CG-STVG."""

from stvg_nst.models.blocks import ImageEncoder, TextEncoder
from stvg_nst.models.cgstvg.model import CGSTVG
from stvg_nst.models.cgstvg.motion import VideoEncoder

# The first two are blocks of any grounder; configurations name them by this package, too.
__all__ = ["CGSTVG", "ImageEncoder", "TextEncoder", "VideoEncoder"]
