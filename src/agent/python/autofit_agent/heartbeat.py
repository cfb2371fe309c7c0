"""A sign of life every two seconds, from a daemon thread: it keeps no process alive and does not survive a
fork."""

import threading
import time

EVERY = 2.0


def install(session):
    """Starts with the claim: a process that does not report has no heartbeat."""

    def start():
        threading.Thread(target=_beat, args=(session,), name="autofit heartbeat", daemon=True).start()

    session.on_claim(start)


def _beat(session):
    while session.state == "training":
        session.emit("heartbeat", step=session.steps)
        time.sleep(EVERY)
