"""The commands, one file a family: the composition root, which alone knows methods, data and callbacks alike.

``stvg_nst.__main__`` lists them. Each is a function that takes the arguments and the program's name for its help, and
returns the exit status.
"""
