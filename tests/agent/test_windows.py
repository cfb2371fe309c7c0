"""Several configurations in one launch, in turns with its own settings."""

import copy
import types
import unittest

import torch
import torch.utils.checkpoint
from models_knobs import GPT
from support import AgentTest
from support_knobs import agent, cutting, state_of, turning
from torch import nn
from torch.optim.optimizer import _global_optimizer_pre_hooks

# Three rounds, however busy the machine is.
SCHEDULE = {"warmup_steps": 4, "min_steps": 3, "max_steps": 3, "max_seconds": 60.0, "relative_error": 9.0}

# PyTorch 2.4 cannot keep the results of chosen operators.
SELECTIVE = [{"checkpoint": "selective"}] * hasattr(
    torch.utils.checkpoint, "create_selective_checkpoint_contexts"
)

HEAD = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
torch.set_num_threads(1)
torch.manual_seed(0)

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return x + self.down(torch.nn.functional.gelu(self.up(x)))

class Net(nn.Module):
    def __init__(self, width=16, blocks=4, loss=False):
        super().__init__()
        self.loss = loss
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))

    def forward(self, x, y=None):
        for block in self.blocks:
            x = block(x)
        logits = self.head(x)
        return nn.functional.cross_entropy(logits, y) if self.loss else logits

def data(samples, width=16):
    return torch.randn(samples, width), torch.randint(0, 4, (samples,))
"""

LOADER = (
    HEAD
    + """
model = Net()
optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
while True:
    for x, y in DataLoader(TensorDataset(*data(640)), 32):
        optimizer.zero_grad(set_to_none=False)
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
"""
)

NO_LOADER = (
    HEAD
    + """
model = Net(loss=True)
optimizer = torch.optim.SGD(model.parameters(), 0.01)
while True:
    loss = model(*data(32))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""
)


class Sweep:
    """What a launch with windows has told."""

    def __init__(self, result, windows):
        self.result = result
        opened = result.all("window")
        self.window_of = {e["run"]: e["window"] for e in opened}
        self.why_not = {e["window"]: e["why_not"] for e in opened if e["why_not"]}
        self.reports = {e["window"]: e["knobs"] for e in opened if e["knobs"]}
        self.peaks = {self.window_of[e["run"]]: e["peak"] for e in result.all("window_memory")}
        self.windows = windows

    def steps(self, window, warmup=False):
        steps = [s for s in self.result.all("step") if s.get("run") is not None]
        return [s for s in steps if self.window_of[s["run"]] == window and s["warmup"] == warmup]

    def samples(self, window):
        return {s["samples"] for s in self.steps(window)}


class SweepTest(AgentTest):
    def sweep(self, script, *windows, **plan):
        plan.setdefault("schedule", SCHEDULE)
        result = self.launch(script, windows=list(windows), **plan)
        self.assertEqual(result.all("fault"), [], result.describe())
        return Sweep(result, windows)

    def assert_ended_well(self, sweep):
        self.assertEqual(sweep.result.code, 0, sweep.result.describe())
        self.assertEqual(sweep.result.last("end")["reason"], "measured", sweep.result.describe())


class InTurns(SweepTest):
    def test_each_window_lies_between_two_of_the_launchs_own_and_no_step_is_changed_by_another(self):
        exact = [{"checkpoint": "all"}, {"set_to_none": True}, {"inplace": True}, *SELECTIVE]
        swept = self.sweep(LOADER, *exact, parity_steps=2)
        self.assert_ended_well(swept)
        self.assertEqual(swept.why_not, {})
        order = [swept.window_of[run] for run in sorted(swept.window_of)]
        self.assertEqual({place % 2 == 0 for place, w in enumerate(order) if w is None}, {True})
        for number, window in enumerate(exact):
            ((name, value),) = window.items()
            (report,) = swept.reports[number]
            self.assertEqual((report["knob"], report["effective"]), (name, value))
            self.assertGreaterEqual(order.count(number), 3)
            self.assertGreaterEqual(len(swept.steps(number)), 9)
        # The first step of a window is never measured, nor are those that are compared.
        self.assertGreaterEqual(sum(s.get("run") is None for s in swept.result.all("step")), 4)
        for run in swept.window_of:
            of_run = [s["warmup"] for s in swept.result.all("step") if s.get("run") == run]
            self.assertEqual((of_run[0], of_run[-1]), (True, False), "run %d" % run)
        # What these knobs compute is what the script computes, to the bit; so it is once they are gone.
        steps = swept.result.all("step")
        self.new_trial(1)
        count = {"warmup_steps": 1, "min_steps": len(steps), "max_steps": len(steps), "max_seconds": 1e9}
        plain = self.launch(LOADER, schedule={**count, "relative_error": 0.0}, parity_steps=2)
        losses = [s["loss"] for s in plain.all("step")]
        self.assertEqual([s["loss"] for s in steps], losses[: len(steps)])
        self.assertGreater(len(set(losses[: len(steps)])), 50)

    def test_the_launchs_own_settings_are_taken_away_and_put_back(self):
        own = {"amp": "bf16", "checkpoint": "all", "accumulation": 2}
        swept = self.sweep(LOADER, {"amp": "bf16"}, {"accumulation": 4, "amp": "off"}, settings=own)
        self.assert_ended_well(swept)
        self.assertEqual(swept.why_not, {})
        self.assertEqual(
            {r["knob"]: r["effective"] for r in swept.reports[1]}, {"amp": "off", "accumulation": 4}
        )
        last = {e["knob"]: e["effective"] for e in swept.result.all("knob")}
        self.assertEqual(last, own, "read back after each return")

    def test_what_cannot_be_turned_costs_no_step_and_what_is_not_in_force_is_not_measured(self):
        refused = [
            {"malloc": "retain"},
            {"amp": "fp16"},
            {"optimizer": "fused"},
            {"tf32": True},
            {"batch_size": 64},
            {"omp_threads": 2},
        ]
        ways, env = {"optimizer": "framework"}, {"OMP_NUM_THREADS": "2"}
        swept = self.sweep(LOADER, *refused, ways=ways, env=env)
        self.assert_ended_well(swept)
        self.assertEqual(
            swept.why_not,
            {
                0: "malloc cannot be turned between two steps",
                1: "amp cannot be turned between two steps",
                2: "optimizer is turned by a switch of its framework, which is read once",
                3: "tf32=true was not applied: it is a switch of NVIDIA's libraries, and Net is on cpu",
                4: "only smaller batches than the script's own (32) can be cut from it",
                5: "omp_threads=2 was not applied: the script set 1 threads by itself",
            },
        )
        for number in (0, 1, 2, 4):
            self.assertEqual(swept.steps(number, True), [])
        for number in range(len(refused)):
            self.assertEqual(swept.steps(number), [])


class Memory(SweepTest):
    def test_each_window_has_a_peak_of_its_own(self):
        script = LOADER.replace("Net()", "Net(width=64, blocks=24)").replace(
            "*data(640)), 32", "*data(8192, 64)), 2048"
        )
        # What is freed goes back at once: otherwise the C library's heap has more to say than the script.
        env = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), "131072")
        swept = self.sweep(script, {"checkpoint": "all"}, {}, {"batch_size": 256}, env=env)
        self.assert_ended_well(swept)
        own, checkpointed, same, cut = (swept.peaks[window] for window in (None, 0, 1, 2))
        # What an earlier window has left is not counted.
        self.assertLess(abs(same / own - 1), 0.05, swept.peaks)
        self.assertLess(checkpointed, own - (30 << 20), swept.peaks)
        self.assertLess(cut, checkpointed, swept.peaks)


class SmallerBatches(SweepTest):
    def test_a_loaders_batches_are_cut(self):
        both = {"batch_size": 16, "checkpoint": "all"}
        swept = self.sweep(LOADER, {"batch_size": 8}, both, {"amp": "bf16"})
        self.assert_ended_well(swept)
        self.assertEqual((swept.samples(0), swept.samples(1)), ({8}, {16}))
        self.assertEqual((swept.samples(None), swept.samples(2)), ({32}, {32}))
        order = [w for w in swept.window_of.values() if w is not None]
        self.assertEqual(sorted(set(order), key=order.index), [2, 1, 0], "small batches last")

    def test_batches_of_any_build(self):
        script = LOADER.replace(
            "DataLoader(TensorDataset(*data(640)), 32)",
            "DataLoader(samples, 32, collate_fn=collate, num_workers=1)",
        ).replace(
            "model = Net()",
            """
samples = list(zip(*data(640)))
def collate(rows):
    return {"x": torch.stack([x for x, _ in rows]), "more": [[str(y) for _, y in rows], 32],
            "y": torch.stack([y for _, y in rows]).numpy()}
model = Net()
""",
        )
        script = script.replace("for x, y in", "for batch in").replace(
            "        optimizer.zero_grad",
            """        x, y = batch["x"], torch.from_numpy(batch["y"])
        assert len(x) == len(y) == len(batch["more"][0]) and batch["more"][1] == 32
        optimizer.zero_grad""",
        )
        swept = self.sweep(script, {"batch_size": 8})
        self.assert_ended_well(swept)
        self.assertEqual((swept.samples(None), swept.samples(0)), ({32}, {8}))

    def test_several_batches_a_step_share_the_samples(self):
        script = LOADER.replace("while True", "count = 0\nwhile True")
        script = script.replace(
            "        optimizer.zero", "        count += 1\n        if count % 2: optimizer.zero"
        )
        script = script.replace("        optimizer.step", "        if count % 2 == 0: optimizer.step")
        swept = self.sweep(script, {"batch_size": 32}, {"batch_size": 31})
        self.assertEqual((swept.samples(None), swept.samples(0)), ({64}, {32}))
        self.assertIn("31 samples cannot be shared out to the 2 batches of a step", swept.why_not[1])

    def test_without_a_loader_the_models_arguments_are_cut_where_it_returns_the_loss(self):
        swept = self.sweep(NO_LOADER, {"batch_size": 8}, {"batch_size": 8, "accumulation": 2})
        self.assert_ended_well(swept)
        self.assertEqual((swept.samples(None), swept.samples(0), swept.samples(1)), ({32}, {8}, {8}))
        model, batch = gpt(returns="logits")
        with agent() as tuned:
            optimizer = torch.optim.SGD(model.parameters(), 0.01)
            step(model, optimizer, batch[:1])
            why = cutting.Cutter(tuned.session).why_not(2, 4)
        self.assertEqual(why, "no DataLoader feeds training, and the model does not return the loss")

    def test_a_script_with_fixed_shapes_dies_in_the_last_window_and_what_was_measured_is_told(self):
        script = LOADER.replace("model(x), y", "model(x.view(32, 16)), y")
        swept = self.sweep(script, {"batch_size": 8}, {"checkpoint": "all"})
        self.assertEqual((swept.result.code, swept.result.last("end")["reason"]), (1, "exception"))
        self.assertGreaterEqual(len(swept.steps(1)), 9)
        self.assertEqual(swept.result.last("window")["window"], 0)
        self.assertEqual(swept.steps(0), [])


def step(model, optimizer, batch):
    optimizer.zero_grad()
    out = model(*batch)
    loss = out[1] if isinstance(out, tuple) else out.pow(2).mean()
    loss.backward()
    optimizer.step()


def gpt(**words):
    torch.manual_seed(1)
    tokens = torch.randint(0, 50, (4, 16))
    return GPT(layers=2, **words), (tokens, tokens.roll(-1, 1))


def convolutions():
    torch.manual_seed(1)
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.Linear(8 * 36, 4)
    return nn.Sequential(*layers), (torch.randn(4, 3, 8, 8),)


def traces(session, model, optimizer):
    """What a knob might leave behind."""
    classes = {type(m) for m in model.modules()} | {nn.Sequential, nn.Module, torch.optim.Optimizer}
    tensors = [*model.parameters(), *(p.grad for p in model.parameters() if p.grad is not None)]
    tensors += [t for state in optimizer.state.values() for t in state.values()]
    return {
        "functions": {
            (cls.__name__, name): vars(cls).get(name)
            for cls in classes
            for name in ("forward", "__init__", "zero_grad", "__call__")
        },
        "layers": list(session.roots.layers),
        "knobs": list(session.knobs.all),
        "settings": dict(session.settings),
        "strides": [(t.shape, t.stride(), t.dtype) for t in tensors],
        "groups": [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups],
        "defaults": dict(optimizer.defaults),
        "hooks": [
            list(vars(optimizer)[name])
            for name in vars(optimizer)
            if name.endswith("_hooks") and isinstance(vars(optimizer)[name], dict)
        ],
        "global hooks": list(_global_optimizer_pre_hooks),
        "attributes": [
            (name, m.__dict__.get("inplace"), sorted(m.__dict__)) for name, m in model.named_modules()
        ],
        "threads": torch.get_num_threads(),
        "first outputs": list(session.roots.on_first_output),
    }


class Traces(unittest.TestCase):
    """Each live value is put in force between two steps, read back, and taken away without a trace."""

    def turn(self, make, own, other):
        model, batch = make()
        with agent(own) as tuned:
            session = tuned.session
            session.windows = types.SimpleNamespace(threads=torch.get_num_threads())
            turner = turning.Turner(session)
            optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
            for _ in range(3):
                step(model, optimizer, batch)
            session.root_calls.append(turner)  # as at the first turn
            turner._began = True
            self.assertIsNone(turner.why_not(other))
            for _ in range(2):
                before = traces(session, model, optimizer)
                turner.turn(other)
                for _ in range(2):
                    step(model, optimizer, batch)
                reports = turner.reports()
                self.assertIsNone(turning.not_in_force(reports), reports)
                self.assertEqual(len(reports), len(other))
                turner.turn(turner.own)
                after = traces(session, model, optimizer)
                if own:  # other objects for the same
                    for trace in (before, after):
                        del trace["functions"], trace["hooks"], trace["global hooks"]
                        for what in ("layers", "knobs"):
                            trace[what] = sorted((k.name, str(k.wanted)) for k in trace[what])
                self.assertEqual(after, before)
                step(model, optimizer, batch)
            self.assertEqual(tuned.of("fault"), [])

    def test_models_of_blocks(self):
        for other in (
            {"amp": "bf16"}, {"amp": "off"},
            {"checkpoint": "all"}, {"checkpoint": "alternate"},
            {"checkpoint": "none"}, *SELECTIVE,
            {"accumulation": 2}, {"accumulation": 1},
            {"optimizer": "fused"}, {"optimizer": "foreach"}, {"optimizer": "loop"},
            {"omp_threads": 2},
            {"offload": "none"}, {"inplace": False}, {"set_to_none": False},
            {"amp": "bf16", "checkpoint": "alternate", "accumulation": 2, "optimizer": "fused"},
        ):  # fmt: skip
            with self.subTest(other):
                self.turn(gpt, {}, other)

    def test_beside_settings_of_the_launch(self):
        self.turn(gpt, {"amp": "bf16", "checkpoint": "all"}, {"amp": "off", "checkpoint": "alternate"})
        self.turn(gpt, {"optimizer": "fused", "accumulation": 2}, {"optimizer": "loop", "accumulation": 4})

    def test_convolutions(self):
        for other in ({"channels_last": True}, {"inplace": True}, {"inplace": True, "channels_last": True}):
            with self.subTest(other):
                self.turn(convolutions, {}, other)

    def test_training_goes_on_as_without_it(self):
        """After a window of `channels_last`, as a model that begins there: the strides are the old ones."""
        model, batch = convolutions()
        with agent() as tuned:
            turner = turning.Turner(tuned.session)
            optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
            for settings in ({}, {"channels_last": True}, {}):
                turner.turn(settings)
                step(model, optimizer, batch)
            twin = copy.deepcopy(model)
            same = torch.optim.AdamW(twin.parameters(), 1e-3)
            same.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for m, o in ((model, optimizer), (twin, same)):
            step(m, o, batch)
        for a, b in zip(state_of(model), state_of(twin)):
            self.assertTrue(torch.equal(a, b))


if __name__ == "__main__":
    unittest.main()
