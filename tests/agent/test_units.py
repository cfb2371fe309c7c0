"""Parts of the agent on their own, without torch."""

import json
import os
import sys
import tempfile
import unittest

from support import AGENT

sys.path.insert(0, AGENT)

from autofit_agent import channel, ending, imports, oom, patches, plan, roles, steps  # noqa: E402


class Roles(unittest.TestCase):
    def test_what_was_launched(self):
        launched = ["python", "train.py", "--lr", "1"]
        self.assertTrue(roles.is_launched(["/usr/bin/python3", "train.py", "--lr", "1"], launched))
        self.assertFalse(roles.is_launched(["python", "-c", "pass"], launched))
        self.assertFalse(roles.is_launched(["python", "train.py"], launched))

    def test_behind_a_launching_program(self):
        for launched in (
            ["torchrun", "--nproc-per-node", "2", "train.py", "--lr", "1"],
            ["python", "-m", "torch.distributed.run", "train.py", "--lr", "1"],
            ["uv", "run", "train.py", "--lr", "1"],
        ):
            self.assertTrue(roles.is_launched(["/x/python", "-u", "train.py", "--lr", "1"], launched))
            self.assertFalse(roles.is_launched(["/x/python", "-c", "pass"], launched))
            self.assertFalse(roles.starts_with_interpreter(launched))
        self.assertTrue(roles.is_launched(["python3", "./train.py"], ["./train.py"]))
        self.assertTrue(roles.starts_with_interpreter(["python3.11", "-m", "package.train"]))

    def test_interpreter_options(self):
        split = roles.split_interpreter
        self.assertEqual(
            split(["python", "-u", "-X", "dev", "a.py", "-m"]), (["-u", "-X", "dev"], ["a.py", "-m"])
        )
        self.assertEqual(split(["python", "-m", "a", "b"]), ([], ["-m", "a", "b"]))
        self.assertEqual(split(["python", "-Wignore", "-"]), (["-Wignore"], ["-"]))


class Records(unittest.TestCase):
    def test_numbers_that_json_cannot_say(self):
        record = {"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": -float("inf")}, "e": object}
        told = json.loads(channel.line(record))
        self.assertEqual((told["a"], told["b"], told["c"]), (None, [None, 1.5], {"d": None}))

    def test_the_plain_line_is_json(self):
        record = {"t": "hello", "at": 0.25, "argv": ['a"b\n', "\u00e4 \\"], "n": 3, "yes": True}
        self.assertEqual(json.loads(channel.plain_line(record)), record)

    def test_one_owner(self):
        with tempfile.TemporaryDirectory() as folder:
            self.assertTrue(channel.take(folder, "claim.0"))
            self.assertTrue(channel.take(folder, "claim.0"))  # the same process, after execv
            with open(os.path.join(folder, "claim.1"), "w", encoding="ascii") as file:
                file.write("1")
            self.assertFalse(channel.take(folder, "claim.1"))

    def test_plans_are_read_like_json(self):
        text = '\n {"a": [1, -2.5e3, "\\u00e4\\n", null, true], "b": {}} \n'
        self.assertEqual(plan.read_json(text), json.loads(text))
        for broken in ("{", "[1,]", '{"a": 1} x', ""):
            with self.assertRaises(ValueError):
                plan.read_json(broken)


class Steps(unittest.TestCase):
    def counted(self, pattern):
        ticker = steps.Ticker()
        return "".join(name for name in pattern if ticker.is_step(name))

    def test_the_least_frequent_optimizer_is_the_step(self):
        self.assertEqual(self.counted("aaaa"), "aaaa")
        self.assertEqual(self.counted("dgdgdg"), "ddd")
        self.assertTrue(self.counted("dddddg" * 3).endswith("ggg"))

    def test_an_optimizer_of_an_earlier_phase_is_forgotten(self):
        self.assertTrue(self.counted("aaa" + "b" * 100).endswith("b" * 30))

    def test_relative_error(self):
        self.assertEqual(steps.relative_error([2.0, 2.0, 2.0]), 0.0)
        self.assertAlmostEqual(steps.relative_error([1.0, 3.0]), 0.5)
        self.assertEqual(steps.relative_error([1.0]), float("inf"))


class CommonEnd(unittest.TestCase):
    class Session:
        steps = 20

    def ahead(self, shortest, answered=0.1):
        end = ending.Ending(self.Session())
        end._shortest = shortest
        return end._ahead(answered)

    def test_ranks_on_other_machines_hear_of_it_before(self):
        self.assertEqual(self.ahead(None), 3)  # before any step was timed
        self.assertEqual(self.ahead(2.0), 3)
        self.assertEqual(self.ahead(0.25), 12)
        self.assertEqual(self.ahead(0.25, answered=4.0), 32)


class Imports(unittest.TestCase):
    def test_called_once_with_the_true_loader_in_place(self):
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "watched_one.py"), "w", encoding="ascii") as file:
                file.write("loader = type(__spec__.loader).__name__\n")
            sys.path.insert(0, folder)
            self.addCleanup(sys.path.remove, folder)
            faults, seen = [], []
            imports.install(lambda hook, error: faults.append((hook, str(error))))

            def first(module):
                imports.on_import("watched_one", lambda m: seen.append(("inner", m.__name__)))
                seen.append(module.loader)
                raise RuntimeError("broken")

            imports.on_import("watched_one", first)
            imports.on_import("watched_one", lambda m: seen.append("second"))
            import watched_one  # noqa: F401

        self.assertEqual(seen, [("inner", "watched_one"), "SourceFileLoader", "second"])
        self.assertEqual(faults, [("import of watched_one", "broken")])


class Patches(unittest.TestCase):
    def test_given_back_unless_somebody_came_after(self):
        class Owner:
            def method(self):
                return "own"

        first = patches.replace(Owner, "method", lambda original: lambda self: "ours " + original(self))
        self.assertEqual(Owner().method(), "ours own")
        first()
        self.assertEqual(Owner().method(), "own")
        second = patches.replace(Owner, "method", lambda original: lambda self: "ours")
        Owner.method = lambda self: "theirs"
        second()
        self.assertEqual(Owner().method(), "theirs")


class Memory(unittest.TestCase):
    def test_what_is_about_memory(self):
        class OutOfMemoryError(RuntimeError):
            pass

        cpu = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"
        gpu = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 3 has a total capacity of 79 GiB"
        for error, device in (
            (RuntimeError(cpu), "cpu"),
            (MemoryError(), "cpu"),
            (OutOfMemoryError(gpu), "cuda:3"),
            (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), "cuda:0"),
            (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
            (KeyError("out of memory"), None),
            (KeyboardInterrupt(), None),
        ):
            self.assertEqual(oom.device_of(error), device, error)


if __name__ == "__main__":
    unittest.main()
