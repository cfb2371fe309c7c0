"""Launches of a plain script in two processes."""

import sys
import unittest

import torch
from support import PYTHON, AgentTest

TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

NEEDED = unittest.skipUnless(
    sys.version_info >= (3, 11) and hasattr(torch.cpu.Stream, "record_event"),
    "several processes that share a model on the processor need Python 3.11 and PyTorch 2.7",
)


class TwoRanks(AgentTest):
    """The whole agent, as the launcher starts it."""

    def launch_two(self, script, **changes):
        path = self.write("train.py", script)
        settings = {"strategy": "fsdp", **changes.pop("settings", {})}
        ways = {name: "agent" for name in settings}
        command = [PYTHON, *TWO, "--no-python", PYTHON, path]
        return self.launch(command, settings=settings, ways=ways, **changes)
