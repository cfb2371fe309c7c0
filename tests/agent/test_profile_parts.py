"""Blocks and notes -> categories and lines, without a script: what a GPU or a compiler would bring about."""

import sys
import unittest

from support import AGENT

sys.path.insert(0, AGENT)

from autofit_agent.profile import attribution  # noqa: E402
from autofit_agent.profile.block import Block, peak  # noqa: E402

# A step from 100 to 200, with its backward pass from 150 to 180.
BEGIN, BACKWARD, END = 100, (150, 180), 200


class Saved:
    def __init__(self, since, address, let_go):
        self.since, self.address, self.let_go = since, address, let_go


class Notes:
    """What was noted of the step."""

    def __init__(self, marks=(), saved=(), shapes=()):
        self.marks, self.saved, self.shapes = list(marks), list(saved), list(shapes)

    def line_at(self, moment):
        return {120: "model.py:7", 160: "model.py:7"}.get(moment)

    def backward_at(self, moment):
        return "train.py:20" if BACKWARD[0] <= moment <= BACKWARD[1] else None


def block(address, born, died, size=8):
    made = Block(address, size, born)
    made.died = float("inf") if died is None else died
    return made


class Parts(unittest.TestCase):
    def entry(self, made, moment, notes=None):
        facts = attribution.Facts(BEGIN, END, {}, {}, notes or Notes(), [])
        (entry,) = attribution.entries([made], [], moment, facts)
        return entry.category, entry.place

    def test_what_the_backward_pass_lets_go_and_has_not_made_was_saved_for_it(self):
        # Compiled code tells nobody what it saves.
        self.assertEqual(self.entry(block(1, 120, 170), 155), ("activations", "model.py:7"))

    def test_what_the_backward_pass_made_itself_is_in_flight(self):
        self.assertEqual(self.entry(block(1, 155, 170), 160), ("temporaries", "train.py:20"))

    def test_what_a_checkpoint_computes_again_in_the_backward_pass(self):
        self.assertEqual(self.entry(block(1, 160, 170), 165), ("activations", "model.py:7"))

    def test_saved_until_it_is_let_go(self):
        notes = Notes(saved=[Saved(125, 1, 160)])
        self.assertEqual(self.entry(block(1, 120, 190), 155, notes)[0], "activations")
        # A variable has it still.
        self.assertEqual(self.entry(block(1, 120, 190), 165, notes)[0], "temporaries")

    def test_a_note_is_of_the_block_that_had_the_address_then(self):
        notes = Notes(marks=[(130, 1, "inputs")])
        self.assertEqual(self.entry(block(1, 110, 140), 120, notes)[0], "inputs")
        self.assertEqual(self.entry(block(1, 141, 145), 142, notes)[0], "temporaries")

    def test_the_line_of_the_forward_operator(self):
        made = block(1, 155, 170)
        made.of = 120
        self.assertEqual(self.entry(made, 160), ("temporaries", "model.py:7"))

    def test_nothing_known_is_other(self):
        self.assertEqual(self.entry(block(1, 120, None), 150)[0], "other")
        self.assertEqual(self.entry(block(1, 50, 190), 150)[0], "other")

    def test_the_peak_takes_what_was_given_back_first_into_account(self):
        blocks = [
            block(1, 50, None, 10),
            block(2, 110, 120, 5),
            block(3, 120, None, 4),
            block(4, 130, 140, 0),
        ]
        moment, alive = peak(blocks, BEGIN, END)
        self.assertEqual((moment, [b.address for b in alive]), (110, [1, 2]))


if __name__ == "__main__":
    unittest.main()
