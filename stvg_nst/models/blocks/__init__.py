"""What grounders are built of: encoders of images and sentences, and the layers of transformers."""

from stvg_nst.models.blocks.image import ImageEncoder
from stvg_nst.models.blocks.text import TextEncoder

__all__ = ["ImageEncoder", "TextEncoder"]
