"""Which line of the user's asked for something: the innermost outside PyTorch, `train.py:41`."""

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_STANDARD = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_PACKAGES = ("site-packages", "dist-packages")


class Places:
    """Remembers what it has found out about a file."""

    def __init__(self, torch):
        self._torch = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
        self._shown = {}  # file -> how it is shown, None where it is nobody's line

    def here(self):
        """The line that runs now."""
        frame = sys._getframe(1)
        while frame is not None:
            shown = self._of(frame.f_code.co_filename)
            if shown is not None:
                return f"{shown}:{frame.f_lineno}"
            frame = frame.f_back
        return None

    def first(self, frames):
        """The same of (file, line) pairs, innermost first."""
        for file, line in frames:
            shown = self._of(file)
            if shown is not None:
                return f"{shown}:{line}"
        return None

    def _of(self, file):
        try:
            return self._shown[file]
        except KeyError:
            shown = self._shown[file] = self._look(file)
            return shown

    def _look(self, file):
        if file.startswith(("<", self._torch, _HERE)):
            return None
        for packages in _PACKAGES:
            _, found, inside = file.rpartition(f"{os.sep}{packages}{os.sep}")
            if found:
                return inside
        if file.startswith(_STANDARD):
            return None
        path = os.path.abspath(file)
        below = os.path.relpath(path, os.getcwd())
        return os.path.basename(path) if below.startswith(os.pardir) else below
