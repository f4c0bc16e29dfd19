"""What all commands share: how their words are read and checked, and how one ends that cannot go on."""
