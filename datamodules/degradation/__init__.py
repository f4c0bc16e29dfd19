"""The pipeline D of the Mixed-Quality benchmark: its severities, its golden pixels, its files on disk."""
