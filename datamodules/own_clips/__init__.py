"""Anyone's own clips: one annotation file in JSON lines, where its videos lie, and its data module."""
