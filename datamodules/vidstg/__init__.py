"""VidSTG: its annotation files and VidOR's, where its files lie, and its data module."""
