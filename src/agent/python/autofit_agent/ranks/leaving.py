"""The end of a rank that has come to the end of the script.

A rank that goes closes its connections, and what another has not read yet is lost with them: that one fails
in a collective ("Connection reset by peer") which the first has come through.  So ranks say when they are
over, and go when all of them are.  They say it through the store: a barrier would be one more collective.

A process that goes must not have threads that still want the interpreter: before Python 3.14 they are ended
in the midst of C++, which aborts ("terminate called without an active exception").  A thread of gloo lets go
of the tensors of a collective after those who waited for it were woken, and the group itself lives as long
as the sharded model does.
"""

import contextlib
import datetime
import os
import threading
import time

_OTHERS = datetime.timedelta(seconds=300)  # for which the others are waited for; a launcher ends them sooner
_WORKERS = "pt_gloo_runloop"  # the threads that carry out collectives
_LOOK = 0.002  # seconds between two looks, in which this thread lets go of the interpreter
_CALM = 5  # looks in a row at which all of them sleep
_LONGEST = 2.0  # seconds


def together(store, rank, ranks):
    """Returns when all ranks have come here, or cannot any more."""
    with contextlib.suppress(RuntimeError):  # whoever keeps the store has gone, or there was no end
        store.set("autofit over %d" % rank, "")
        store.wait(["autofit over %d" % other for other in range(ranks)], _OTHERS)


def settle():
    """Waits until no thread of gloo has anything left to do."""
    calm = 0
    end = time.monotonic() + _LONGEST
    while calm < _CALM and time.monotonic() < end:
        time.sleep(_LOOK)
        calm = calm + 1 if all(state == "S" for state in _states()) else 0


def _states():
    """What the threads of gloo do, one letter each as in proc(5); of all others where none has their name."""
    mine = threading.get_native_id()
    workers, others = [], []
    for thread in os.listdir("/proc/self/task"):
        try:
            with open("/proc/self/task/%s/stat" % thread, encoding="utf-8", errors="replace") as file:
                before, _, after = file.read().rpartition(") ")
        except OSError:
            continue  # it has ended
        if int(thread) != mine:
            (workers if before.endswith("(" + _WORKERS) else others).append(after[:1])
    return workers or others
