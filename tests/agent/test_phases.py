"""Confirm trials, evaluation and saving, out of memory, options, production."""

import unittest

from support import HEAD, AgentTest

EPOCHS = """
import os
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
train = DataLoader(TensorDataset(torch.randn(4000, 8)), batch_size=4, shuffle=True)
test = DataLoader(TensorDataset(torch.randn(20, 8)), batch_size=5)
for epoch in range(1000):
    model.train()
    n = 0
    for (x,) in train:
        n += 1
        optimizer.zero_grad()
        model(x).pow(2).mean().backward()
        optimizer.step()
    print("epoch of", n, flush=True)
    model.eval()
    with torch.no_grad():
        for (x,) in test:
            model(x)
    torch.save(model.state_dict(), "model.pt")
"""

COVERAGE = {"end_loader_after": 20, "look_batches": 0, "look_seconds": 5.0, "phase_seconds": 30.0}

# More than this and less than what the scripts ask for; PyTorch itself maps about 0.5 GB of data.
DATA_LIMIT = 3 << 30


class Confirm(AgentTest):
    def test_end_of_epoch_is_reached(self):
        result = self.launch(HEAD + EPOCHS, coverage=COVERAGE)
        self.assertEqual(result.code, 0, result.describe())
        self.assertEqual(result.all("fault"), [], result.describe())
        self.assertEqual(result.out, "epoch of 20\n")
        self.assertEqual(result.last("end")["reason"], "covered")
        ended = [(e["phase"], e["count"]) for e in result.all("phase") if e["seconds"] is not None]
        self.assertEqual(ended, [("save", 1), ("eval", 4)])
        # The first step of the second epoch is the last one.
        self.assertEqual(len(result.all("step")), 21)

    def test_a_loader_that_is_asked_with_next_does_not_end(self):
        """The script counts on endless data: an early end would be an exception."""
        result = self.launch(
            HEAD
            + """
class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        while True:
            yield torch.ones(8)

def batches():
    for x in DataLoader(Stream(), batch_size=4):
        yield x

model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
drawn = batches()
for step in range(1000):
    x = next(drawn)
    model(x).mean().backward()
    optimizer.step()
    if step == 30:
        model.eval()
        with torch.no_grad():
            model(x)
        model.train()
        torch.save(model.state_dict(), "model.pt")
print("reached the end")
""",
            coverage=dict(COVERAGE, end_loader_after=12),
        )
        self.assertEqual((result.code, result.out), (0, ""), result.describe())
        self.assertEqual(result.all("fault"), [], result.describe())
        self.assertEqual(result.last("end")["reason"], "covered")
        self.assertGreater(len(result.all("step")), 30, result.describe())

    def test_the_largest_batch_comes_when_the_optimizer_has_its_state(self):
        look = dict(COVERAGE, look_batches=50, end_loader_after=12)
        result = self.launch(
            HEAD
            + """
class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 80
    def __getitem__(self, i):
        return torch.ones(1000 if i == 33 else i % 7 + 1, 8)

def collate(items):
    return torch.cat(items)

model = Net()
optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
for epoch in range(100):
    for x in DataLoader(Data(), batch_size=4, collate_fn=collate):
        print(len(x), "with" if optimizer.state else "without", end=" ", flush=True)
        model(x).mean().backward()
        optimizer.step()
    print("|", end=" ", flush=True)
""",
            coverage=look,
        )
        self.assertEqual(result.code, 0, result.describe())
        self.assertEqual(result.all("fault"), [], result.describe())
        seen = result.one("look")
        self.assertEqual((seen["batches"], seen["of"]), (20, 20))
        self.assertGreater(seen["largest_elements"], 1000 * 8)
        self.assertLess(seen["median_elements"], 200)
        batches = result.out.split("|")[0].split()
        sizes, state = [int(n) for n in batches[::2]], batches[1::2]
        self.assertEqual([8 * n for n in sizes].index(seen["largest_elements"]), 1)
        self.assertEqual(state, ["without"] + ["with"] * 11)
        self.assertEqual({e["samples"] for e in result.all("step")}, {4})

    def test_a_long_evaluation_is_cut_off(self):
        result = self.launch(
            HEAD + EPOCHS.replace("model(x)\n    torch", "model(x); import time; time.sleep(60)\n    torch"),
            coverage=dict(COVERAGE, phase_seconds=1.0),
        )
        self.assertEqual(result.code, 0, result.describe())
        self.assertEqual(result.last("end")["reason"], "covered")
        self.assertEqual([e["seconds"] for e in result.all("phase")], [None])

    def test_short_script_ends_by_itself(self):
        result = self.launch(HEAD + EPOCHS.replace("range(1000)", "range(1)"), coverage=COVERAGE)
        self.assertEqual(result.last("end")["reason"], "script_end", result.describe())
        self.assertEqual(result.out, "epoch of 20\n")


class Memory(AgentTest):
    SCRIPT = """
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for i in range(8):
    {guard}
        x = torch.randn(2, 8)
        if i == 5:
            x = x.new_ones(1 << 28, 8)
        model(x).mean().backward()
        optimizer.step()
    {otherwise}
"""

    def test_raised(self):
        script = HEAD + self.SCRIPT.format(guard="if True:", otherwise="")
        result = self.launch(script, rlimit_data=DATA_LIMIT)
        self.assertEqual(result.code, 1, result.describe())
        ooms = result.all("oom")
        self.assertTrue(ooms, result.describe())
        self.assertEqual((ooms[-1]["device"], ooms[-1]["fatal"], ooms[-1]["step"]), ("cpu", True, 5))
        self.assertIn("DefaultCPUAllocator", ooms[-1]["message"])
        self.assertEqual(result.last("end")["reason"], "exception")

    def test_caught_in_the_roots_call(self):
        # The input fits, what the root makes of it does not.
        script = self.SCRIPT.replace("1 << 28", "1 << 24")
        script = script.replace("x = x.new_ones", "held = torch.ones(1 << 28); x = x.new_ones").format(
            guard="try:", otherwise="except Exception: print('caught', flush=True)"
        )
        result = self.launch(HEAD + script, rlimit_data=DATA_LIMIT)
        self.assertIn("caught", result.out, result.describe())
        self.assertEqual(result.code, 0)
        oom = result.one("oom")
        self.assertEqual((oom["phase"], oom["fatal"], oom["step"]), ("train", False, 5))

    def test_before_torch(self):
        result = self.launch("x = [bytearray(1 << 32)]\n", rlimit_data=1 << 30)
        self.assertEqual(result.code, 1)
        oom = result.one("oom")
        self.assertEqual((oom["device"], oom["phase"], oom["fatal"]), ("cpu", "setup", True))

    def test_an_error_that_is_not_about_memory(self):
        script = HEAD + "Net()(torch.randn(2, 9))\n"
        result = self.launch(script)
        self.assertEqual(result.code, 1)
        self.assertEqual(result.all("oom"), [])


class Options(AgentTest):
    def test_options_and_subcommands(self):
        result = self.launch(
            """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("-b", "--batch-size", type=int, default=64, help="samples (default: %(default)s)")
parser.add_argument("--amp", action="store_true")
parser.add_argument("--opt", choices=["sgd", "adam"], default="sgd")
commands = parser.add_subparsers(dest="command")
train = commands.add_parser("train")
train.add_argument("--lr", type=float, default=0.1)
commands.add_parser("eval").add_argument("--checkpoint")
print(parser.parse_args())
""",
            "--batch-size",
            "8",
            "train",
            "--lr",
            "0.5",
        )
        self.assertEqual(result.code, 0, result.describe())
        info = result.one("options")
        by_name = {o["dest"]: o for o in info["options"]}
        self.assertEqual(sorted(by_name), ["amp", "batch_size", "lr", "opt"])
        batch = by_name["batch_size"]
        self.assertEqual(batch["flags"], ["-b", "--batch-size"])
        self.assertEqual((batch["kind"], batch["default"], batch["value"]), ("int", "64", "8"))
        self.assertEqual(by_name["amp"]["kind"], "bool")
        self.assertEqual(by_name["opt"]["choices"], ["sgd", "adam"])
        self.assertEqual((by_name["lr"]["under"], by_name["lr"]["value"]), (["train"], "0.5"))


class Production(AgentTest):
    SCRIPT = """
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
before = [p.clone() for p in model.parameters()]
for i in range(8):
    optimizer.zero_grad()
    model(torch.randn(4, 8)).mean().backward()
    optimizer.step()
print("reached the end", torch.nn.Module.__call__.__qualname__)
"""

    def run_mode(self, after="", **changes):
        changes.setdefault("confirmed", {"peak_bytes": 64 << 30})
        return self.launch(
            HEAD + self.SCRIPT + after,
            mode="run",
            trial_dir=None,
            inspect=False,
            seed=None,
            parity_steps=0,
            **changes,
        )

    def test_runs_to_its_end_and_leaves_nothing_behind(self):
        result = self.run_mode()
        self.assertEqual(result.code, 0, result.describe())
        self.assertEqual(result.out, "reached the end Module._wrapped_call_impl\n")
        self.assertEqual(result.err, "")
        self.assertEqual(result.events, [])

    def test_what_only_finds_things_out_is_taken_away(self):
        places = """
for function in (torch.autograd.backward, torch.autograd.grad, torch.amp.autocast.__enter__):
    print("in the agent:", "autofit_agent" in function.__code__.co_filename)
print("wrapped:", "__call__" in vars(Net))
"""
        result = self.run_mode(after=places)
        self.assertEqual(result.out.splitlines()[1:], ["in the agent: False"] * 3 + ["wrapped: False"])
        # With a knob that acts in the root's call the wrapper is what acts.
        result = self.run_mode(after=places, settings={"amp": "bf16"}, ways={"amp": "agent"})
        self.assertEqual(result.out.splitlines()[1:], ["in the agent: False"] * 3 + ["wrapped: True"])

    def test_a_model_that_comes_later_gets_the_settings_too(self):
        later = """
class Later(Net):
    def forward(self, x):
        self.low = torch.is_autocast_enabled("cpu")
        return super().forward(x)
later = Later()
optimizer = torch.optim.SGD(later.parameters(), lr=0.1)
for i in range(3):
    later(torch.randn(4, 8)).mean().backward()
    optimizer.step()
print("low:", later.low)
"""
        changes = {"settings": {"amp": "bf16"}, "ways": {"amp": "agent"}}
        self.assertIn("low: True", self.run_mode(after=later, **changes).out)
        self.assertIn("low: False", self.run_mode(after=later).out)

    def test_settings_are_applied(self):
        result = self.run_mode(settings={"amp": "bf16"}, ways={"amp": "agent"}, required=["amp"])
        self.assertEqual(result.code, 0, result.describe())
        self.assertEqual(result.err, "")

    def test_a_required_knob_that_is_not_in_force_stops_the_run(self):
        # There are no repeated blocks to checkpoint.
        result = self.run_mode(
            settings={"checkpoint": "all"}, ways={"checkpoint": "agent"}, required=["checkpoint"]
        )
        self.assertEqual(result.code, 125, result.describe())
        self.assertIn("autofit: stopped before the first step", result.err)
        self.assertIn("checkpoint", result.err)
        self.assertNotIn("reached the end", result.out)

    def test_a_knob_that_is_not_required_is_one_line(self):
        result = self.run_mode(settings={"checkpoint": "all"}, ways={"checkpoint": "agent"})
        self.assertEqual(result.code, 0, result.describe())
        self.assertIn("reached the end", result.out)
        self.assertEqual(result.err.count("\n"), 1)
        self.assertIn("autofit: not as confirmed: checkpoint is not in force", result.err)

    def test_more_memory_than_confirmed_is_one_line(self):
        result = self.run_mode(confirmed={"peak_bytes": 10 << 20})
        self.assertEqual(result.code, 0, result.describe())
        self.assertIn("the peak was 10 MiB", result.err)


if __name__ == "__main__":
    unittest.main()
