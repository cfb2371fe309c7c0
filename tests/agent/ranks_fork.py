"""Several ranks, all children of a process that has imported torch, which takes longer than what they do."""

import json
import os
import socket
import sys
import tempfile
import traceback


def fork(count, run):
    """The items of the lists that `run()` returns in `count` ranks, which find what torchrun tells them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = [tempfile.TemporaryFile("w+") for _ in range(count)]  # noqa: SIM115
    children = []
    for rank, file in enumerate(files):
        child = os.fork()
        if child == 0:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count))
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            _be_a_rank(run, file)
        children.append(child)
    ends = [os.waitpid(child, 0)[1] for child in children]
    if any(ends):
        sys.exit(f"ranks ended with {ends}")
    found = []
    for file in files:
        file.seek(0)
        found += json.load(file)
        file.close()
    return found


def _be_a_rank(run, file):
    try:
        json.dump(run(), file)
        file.flush()
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # the others notice that its connections are closed
    os._exit(0)
