"""What the operating system gives: cores, files that are written whole, and folders held by one process."""
