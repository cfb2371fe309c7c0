"""torch.compile from outside: compiled code runs, recompiling is no measure, what fails runs as written."""

import tempfile
import unittest
from unittest import mock

import torch
from support_knobs import agent, distance, state_of
from torch import nn
from torch._dynamo.backends.debugging import aot_eager

# What is traced and differentiated ahead, without the C++ that takes its time: for what is not about code.
QUICK = mock.patch(
    "torch._inductor.compile_fx.compile_fx", lambda graph, inputs, **_: aot_eager(graph, inputs)
)
SCHEDULE = {"warmup_steps": 2, "min_steps": 1000, "max_steps": 1000, "max_seconds": 1e9}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return torch.relu(self.linear(x)) + x


class Net(nn.Module):
    """Small: each compilation takes seconds."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x.square().mean()


def train(make=Net, steps=12, sizes=(4,)):
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for step in range(steps):
        x = torch.randn(sizes[min(step, len(sizes) - 1)], 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).backward()
        optimizer.step()
    return model


class Compile(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        # A cache of its own: what a killed process left half-written in the user's would be used.
        folder = tempfile.TemporaryDirectory(prefix="autofit-inductor-")
        cls.addClassCleanup(folder.cleanup)
        patch = mock.patch.dict("os.environ", {"TORCHINDUCTOR_CACHE_DIR": folder.name})
        patch.start()
        cls.addClassCleanup(patch.stop)

    def setUp(self):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()

    tearDown = setUp

    def tuned(self, make=Net, sizes=(4,), steps=12, **settings):
        plain = train(make, steps, sizes)
        with agent({"compile": "default", **settings}, schedule=SCHEDULE) as tuned:
            ours = train(make, steps, sizes)
            tuned.session.stepper.settle(wait=True)
            tuned.session.flush()
            self.assertEqual(tuned.of("fault"), [])
            self.reports = {name: tuned.knob(name) for name in ("compile", *settings)}
            self.steps = tuned.of("step")
        self.assertLess(distance(state_of(plain), state_of(ours)), 1e-5)
        # As it was: nothing of ours is left in the model.
        self.assertIsNone(ours._compiled_call_impl)
        return self.reports["compile"]

    def test_compiled_code_runs_with_checkpointing_too(self):
        report = self.tuned(checkpoint="all")
        self.assertEqual((report["effective"], report["objects"]), ("default", 1), report)
        self.assertIn("1 graph, 0 graph breaks", report["how"])
        self.assertEqual(self.reports["checkpoint"]["effective"], "all")

    def test_with_a_budget_of_activations(self):
        report = self.tuned(activation_memory_budget="0.25")
        self.assertEqual((report["effective"], report["objects"]), ("default", 1), report)
        self.assertEqual(self.reports["activation_memory_budget"]["effective"], "0.25")

    @QUICK
    def test_a_model_of_a_class_of_pytorchs_own(self):
        # What `module.compile()` compiles of it is passed over without a word.
        class Last(nn.Module):
            def forward(self, x):
                return x.square().mean()

        report = self.tuned(lambda: nn.Sequential(Block(), nn.Linear(8, 8), Last()))
        self.assertEqual((report["effective"], report["objects"]), ("default", 1), report)
        self.assertIn("1 graph, 0 graph breaks", report["how"])

    @QUICK
    def test_graph_breaks_are_counted(self):
        class Broken(Net):
            def forward(self, x):
                x = torch.relu(self.blocks[0](x))
                torch._dynamo.graph_break()
                return self.blocks[1](x).square().mean()

        report = self.tuned(Broken)
        self.assertEqual(report["effective"], "default", report)
        self.assertIn("2 graphs, 1 graph break,", report["how"])

    @QUICK
    def test_nothing_is_compiled_twice_because_of_the_agent(self):
        report = self.tuned()
        self.assertIn(" 1 graph,", report["how"])
        self.assertNotIn("again", report["how"])

    @QUICK
    def test_a_step_in_which_something_is_compiled_is_no_measure(self):
        report = self.tuned(sizes=(4,) * 5 + (6,), steps=60)
        self.assertIn("compiled again in 1 later call", report["how"])
        warm = [step["index"] for step in self.steps if step["warmup"]]
        self.assertIn(5, warm)
        self.assertLess(max(warm), 59)

    def test_without_a_compiler_it_is_refused(self):
        with mock.patch.dict("os.environ", {"CXX": "no-such-compiler"}):
            report = self.tuned(steps=3)
        self.assertEqual(
            report["reason"], "torch.compile needs a C++ compiler, and there is no no-such-compiler"
        )

    def test_a_compiler_that_fails_leaves_the_script_as_it_is(self):
        def fails(*_args, **_kwargs):
            raise RuntimeError("no code today")

        with mock.patch("torch._inductor.compile_fx.compile_fx", fails):
            report = self.tuned(steps=4)
        self.assertIsNone(report["effective"], report)
        self.assertIn("no code today", report["reason"])

    def test_the_scripts_own_is_not_stacked(self):
        def own():
            model = Net()
            model.compile(backend="eager")
            return model

        torch.manual_seed(0)
        with agent({"compile": "default"}) as tuned:
            model = own()
            model(torch.ones(2, 8)).backward()
            self.assertEqual(tuned.knob("compile")["reason"], "the script uses torch.compile by itself")
            self.assertTrue(tuned.of("detected")[-1]["compile"])

    def test_cuda_graphs_need_a_gpu(self):
        with agent({"compile": "reduce-overhead"}) as tuned:
            train(steps=1)
            self.assertIn("need a GPU", tuned.knob("compile")["reason"])

    @QUICK
    def test_evaluation_runs_as_written(self):
        calls = []

        class Watched(Net):
            def forward(self, x):
                if not torch.compiler.is_compiling():
                    calls.append(torch.is_grad_enabled())
                return super().forward(x)

        with agent({"compile": "default"}) as tuned:
            model = train(Watched, 3)
            self.assertEqual(tuned.knob("compile")["effective"], "default")
            self.assertNotIn(True, calls)
            with torch.no_grad():
                model(torch.ones(2, 8))
        self.assertEqual(calls, [False])


if __name__ == "__main__":
    unittest.main()
