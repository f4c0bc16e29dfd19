"""What a run leaves behind, and the names and the arithmetic of its numbers. Never imports torch."""
