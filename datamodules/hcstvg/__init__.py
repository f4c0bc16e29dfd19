"""HC-STVG, versions 1 and 2: its annotation files, where its files lie, and its data module."""
