"""A sign of life every two seconds, from a daemon thread: it keeps no process alive and does not survive a
fork.  Where several processes train it also says where the script is: one that stands elsewhere than the
others is the one that they wait for.
"""

import os
import sys
import threading
import time

from . import roles

EVERY = 2.0
_FRAMES = 40  # looked through for one of the script's


def install(session):
    """Starts with the claim: a process that does not report has no heartbeat."""

    def start():
        main = threading.get_ident()
        threading.Thread(target=_beat, args=(session, main), name="autofit heartbeat", daemon=True).start()

    session.on_claim(start)


def _beat(session, main):
    while session.state == "training":
        fields = {"step": session.steps}
        if roles.world_size() > 1:
            fields["place"] = _place(main)
        session.emit("heartbeat", **fields)
        time.sleep(EVERY)


def _place(thread):
    """`train.py:41`, the innermost frame of the thread that trains which is in no library and not ours."""
    frame = sys._current_frames().get(thread)
    ours = (os.path.dirname(__file__), os.path.dirname(os.__file__), "<")
    for _ in range(_FRAMES):
        if frame is None:
            return None
        name = frame.f_code.co_filename
        if name.endswith(".py") and not name.startswith(ours) and "site-packages" not in name:
            return f"{os.path.basename(name)}:{frame.f_lineno}"
        frame = frame.f_back
    return None
