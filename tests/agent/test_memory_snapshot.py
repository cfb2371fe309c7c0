"""The reader of the CUDA allocator's snapshots, with documents of the form that `_snapshot` states."""

import os
import pickle
import sys
import tempfile
import unittest

from support import AGENT

sys.path.insert(0, AGENT)

from autofit_agent.places import Places  # noqa: E402
from autofit_agent.profile import snapshot  # noqa: E402
from autofit_agent.profile.block import peak  # noqa: E402

MIB = 1 << 20
TORCH = "/env/lib/python3.11/site-packages/torch/"


class Torch:
    __file__ = TORCH + "__init__.py"


def frames(line):
    """As the allocator tells them: innermost first."""
    return [
        {"filename": TORCH + "nn/modules/linear.py", "line": 125, "name": "forward"},
        {"filename": "/home/me/model.py", "line": line, "name": "forward"},
        {"filename": "/home/me/train.py", "line": 9, "name": "<module>"},
    ]


def action(what, address, size, moment, line=1):
    return {
        "action": what,
        "addr": address,
        "size": size,
        "stream": 0,
        "time_us": moment,
        "frames": frames(line),
    }


def block(size, state, address=None, line=None):
    row = {"size": size, "requested_size": size - 100, "state": state, "frames": frames(line) if line else []}
    return row if address is None else {**row, "address": address}


def document():
    """Two segments: one with a hole between two blocks in use, one that is free."""
    return {
        "segments": [
            {
                "device": 0,
                "address": 1000 * MIB,
                "total_size": 20 * MIB,
                "stream": 0,
                "segment_type": "large",
                "allocated_size": 10 * MIB,
                "active_size": 10 * MIB,
                "blocks": [
                    block(6 * MIB, "active_allocated", 1000 * MIB),  # from before the record
                    block(10 * MIB, "inactive", 1006 * MIB),
                    block(4 * MIB, "active_allocated", 1016 * MIB, line=40),
                ],
            },
            {
                "device": 0,
                "address": 2000 * MIB,
                "total_size": 30 * MIB,
                "stream": 0,
                "segment_type": "large",
                "allocated_size": 0,
                "active_size": 0,
                "blocks": [block(30 * MIB, "inactive", 2000 * MIB)],
            },
            {
                "device": 1,
                "address": 3000 * MIB,
                "total_size": 2 * MIB,
                "stream": 0,
                "segment_type": "large",
                "allocated_size": 2 * MIB,
                "active_size": 2 * MIB,
                "blocks": [block(2 * MIB, "active_allocated", 3000 * MIB)],
            },
        ],
        "device_traces": [
            [
                action("alloc", 1016 * MIB, 4 * MIB - 100, 10, line=40),
                action("segment_alloc", 2000 * MIB, 30 * MIB, 11),
                action("alloc", 2000 * MIB, 30 * MIB, 12, line=41),
                action("alloc", 1006 * MIB, 1000, 13, line=42),
                action("free_requested", 2000 * MIB, 30 * MIB, 14),
                action("free_completed", 2000 * MIB, 30 * MIB, 15),
                action("free_requested", 1006 * MIB, 1000, 16),
                action("free_requested", 1010 * MIB, 2 * MIB, 17),  # older than the record
                {
                    "action": "oom",
                    "size": 99 * MIB,
                    "stream": 0,
                    "device_free": 1,
                    "frames": [],
                    "time_us": 18,
                },
            ],
            [],
        ],
    }


class Reader(unittest.TestCase):
    def setUp(self):
        self.blocks = snapshot.blocks(document(), 0, Places(Torch).first)

    def test_what_was_alive_at_the_peak_and_which_lines_made_it(self):
        moment, alive = peak(self.blocks, 0, 20_000)
        self.assertEqual(moment, 13_000)
        found = sorted((b.size, b.place) for b in alive if b.place)
        self.assertEqual(found, [(1024, "model.py:42"), (4 * MIB, "model.py:40"), (30 * MIB, "model.py:41")])
        older = sorted(b.size for b in alive if not b.place)
        self.assertEqual(older, [2 * MIB, 6 * MIB])

    def test_blocks_live_until_they_are_given_back(self):
        at_end = [b for b in self.blocks if b.lives(20_000)]
        self.assertEqual(sorted(b.size for b in at_end), [4 * MIB, 6 * MIB])
        self.assertEqual(sum(b.size for b in at_end), document()["segments"][0]["allocated_size"])

    def test_how_the_memory_is_cut_up(self):
        self.assertEqual(
            snapshot.pieces(document(), 0),
            {
                "reserved": 50 * MIB,
                "allocated": 10 * MIB,
                "free_segments": 30 * MIB,
                "free_parts": 10 * MIB,
                "largest_free": 30 * MIB,
            },
        )

    def test_blocks_without_an_address_follow_each_other(self):
        older = document()
        for segment in older["segments"]:
            for row in segment["blocks"]:
                del row["address"]
        again = snapshot.blocks(older, 0, Places(Torch).first)
        self.assertEqual([(b.address, b.size) for b in again], [(b.address, b.size) for b in self.blocks])

    def test_a_device_of_which_nothing_was_recorded(self):
        found = snapshot.blocks(document(), 1, Places(Torch).first)
        self.assertEqual([(b.size, b.place) for b in found], [(2 * MIB, None)])
        self.assertEqual(snapshot.blocks(document(), 7, Places(Torch).first), [])


class Cuda:
    """`torch.cuda` as far as the recording asks it."""

    def __init__(self):
        self.asked = []
        self.memory = self

    def reset_peak_memory_stats(self):
        self.asked.append("reset")

    def _record_memory_history(self, enabled="all", max_entries=0, stacks="all"):
        self.asked.append((enabled, stacks))

    def _snapshot(self):
        return document()


class Recording(unittest.TestCase):
    def test_it_begins_and_ends_and_leaves_the_file_for_the_viewer(self):
        cuda = Cuda()
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, snapshot.FILE)
            snapshot.begin(cuda)
            self.assertEqual(snapshot.take(cuda, path), document())
            with open(path, "rb") as file:
                self.assertEqual(pickle.load(file), document())
        self.assertEqual(cuda.asked, ["reset", ("all", "python"), (None, "all")])


if __name__ == "__main__":
    unittest.main()
