"""Your own video: a film and sentences in, tubes out. ``stvg_nst.load`` is the way in; docs/predict.md is the manual.

Together with the commands this room knows the data modules' readers of films; nothing but the commands knows it.

1. ``loading.py``: from a name, a run's folder or a weights file to a grounder.
2. ``grounder.py``: :class:`VideoGrounder`, which answers.
3. ``viewing.py``: which frames a network is shown, and how.
4. ``windows.py``: a long film in windows, and the best of their tubes.
5. ``network.py``: one window through the network, with an adapter or without.
6. ``answer.py`` and ``pictures.py``: what comes out, in numbers and to look at.
7. ``table.py``: many rows.
8. ``exported.py`` and ``program.py``: a tuned network as one file, and as a program of tensors.
"""

from stvg_nst.prediction.answer import Answer
from stvg_nst.prediction.grounder import VideoGrounder
from stvg_nst.prediction.loading import load

__all__ = ["Answer", "VideoGrounder", "load"]
