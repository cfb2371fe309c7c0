"""The environment for the frameworks' tests: all pinned packages are there, and PyTorch is the base's own."""

import importlib.metadata
import os
import re
import unittest

PINS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support", "frameworks.txt")


class Environment(unittest.TestCase):
    def test_every_pin_is_in_force(self):
        with open(PINS, encoding="utf-8") as file:
            rows = [row.strip() for row in file if row.strip() and not row.startswith("#")]
        self.assertGreater(len(rows), 3)
        for row in rows:
            name, version = re.fullmatch(r"([\w-]+)(?:\[\w+\])?==([\w.]+)", row).groups()
            self.assertEqual(importlib.metadata.version(name), version, row)

    def test_torch_is_not_there_twice(self):
        found = [d for d in importlib.metadata.distributions() if d.metadata["Name"] == "torch"]
        self.assertEqual(len(found), 1)


if __name__ == "__main__":
    unittest.main()
