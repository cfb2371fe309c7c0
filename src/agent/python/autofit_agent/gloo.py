"""No thread of gloo may want the interpreter when that ends.

Before Python 3.14 such a thread is ended in the midst of C++, which aborts the process: "terminate called
without an active exception".  It happens to any script on a busy machine: a thread lets go of the tensors of
a collective after whoever waited for that was woken, and the threads live as long as anything refers to their
group, a wrapped model for example, whether the group was destroyed or not.
"""

import atexit
import os
import time

_NAME = "pt_gloo_runloop"  # a thread that carries out collectives; an older PyTorch gives it no name
_LOOK = 0.002  # seconds between two looks, in which this thread lets go of the interpreter
_CALM = 5  # looks in a row at which all of them sleep
_LONGEST = 2.0  # seconds


def install(_session):
    """At the end of the script, behind what it does there itself."""
    atexit.register(_settle)


def _settle():
    """Waits until they have nothing left to do."""
    calm = 0
    end = time.monotonic() + _LONGEST
    while calm < _CALM and time.monotonic() < end:
        states = _states()
        if not states:
            return
        calm = calm + 1 if states == {"S"} else 0
        time.sleep(_LOOK)


def _states():
    """What the threads do, one letter each as in proc(5)."""
    found = set()
    for thread in os.listdir("/proc/self/task"):
        try:
            with open("/proc/self/task/%s/stat" % thread, encoding="utf-8", errors="replace") as file:
                before, _, after = file.read().rpartition(") ")
        except OSError:
            continue  # it has ended
        if before.endswith("(" + _NAME):
            found.add(after[:1])
    return found
