"""Autocast and checkpointing from outside: in force, exact where they must be, or refused with a reason."""

import copy
import io
import unittest

import torch
from models_knobs import CNN, GPT, images, tokens
from support_knobs import agent, distance, state_of
from torch import nn
from torch.nn import functional as F


def train_gpt(steps=4, **how):
    torch.manual_seed(0)
    model = GPT(**how)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for batch in tokens(steps):
        _, loss = model(batch[:, :-1], batch[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        logits, _ = model(tokens(1, seed=9)[0][:, :-1])
    return losses, [*state_of(model), logits.float()], model


def train_cnn(steps=4, norm=True):
    torch.manual_seed(0)
    model = CNN(norm)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    losses = []
    for x, y in images(steps):
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        output = model(images(1, seed=9)[0][0])
    return losses, [*state_of(model), output], model


class Checkpointing(unittest.TestCase):
    def compare(self, value, train, expected_objects, **how):
        _, plain, _ = train(**how)
        with agent({"checkpoint": value}) as tuned:
            _, ours, _ = train(**how)
            report = tuned.knob("checkpoint")
            self.assertEqual(tuned.of("fault"), [])
        self.assertEqual(report["effective"], value, report)
        self.assertEqual(report["objects"], expected_objects, report)
        self.assertEqual(distance(plain, ours), 0.0)

    def test_gpt_all(self):
        self.compare("all", train_gpt, 4)

    def test_gpt_alternate(self):
        self.compare("alternate", train_gpt, 2)

    def test_dropout_draws_the_same_masks(self):
        self.compare("all", train_gpt, 4, dropout=0.2)

    def test_running_statistics_are_updated_once(self):
        self.compare("all", train_cnn, 4)
        self.compare("alternate", train_cnn, 2)

    def test_none_is_read_back(self):
        with agent({"checkpoint": "none"}) as tuned:
            train_gpt(1)
            self.assertEqual(tuned.knob("checkpoint")["effective"], "none")

    def test_never_twice(self):
        from torch.utils import checkpoint as module

        class Own(GPT):
            def forward(self, idx, targets=None):
                x = self.transformer["wte"](idx)
                for block in self.transformer["h"]:
                    x = module.checkpoint(block, x, use_reentrant=False)
                logits = self.head(x)
                return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())

        with agent({"checkpoint": "all"}) as tuned:
            model = Own()
            batch = tokens(1)[0]
            model(batch[:, :-1], batch[:, 1:])[1].backward()
            report = tuned.knob("checkpoint")
        self.assertIsNone(report["effective"])
        self.assertIn("by the script already", report["reason"])

    def test_no_blocks(self):
        with agent({"checkpoint": "all"}) as tuned:
            nn.Linear(3, 3)(torch.randn(2, 3)).sum().backward()
            self.assertIn("no repeated blocks", tuned.knob("checkpoint")["reason"])

    def test_input_changed_in_place(self):
        class Doubling(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = nn.Linear(4, 4)

            def forward(self, x):
                return self.inner(x.mul_(2.0))

        def train():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(Doubling(), Doubling()))
            model(torch.ones(2, 4)).sum().backward()
            return [p.grad for p in model.parameters()]

        plain = train()
        with agent({"checkpoint": "all"}) as tuned:
            ours = train()
            self.assertIn("in place", tuned.knob("checkpoint")["reason"])
        self.assertEqual(distance(plain, ours), 0.0)

    def test_memory_falls(self):
        pass


class Autocast(unittest.TestCase):
    def test_engaged_and_close(self):
        plain, _, _ = train_gpt()
        with agent({"amp": "bf16"}) as tuned:
            losses, _, model = train_gpt()
            report = tuned.knob("amp")
            self.assertEqual(tuned.of("fault"), [])
        self.assertEqual(report["effective"], "bf16", report)
        self.assertIn("GPT", report["how"])
        self.assertNotEqual(plain, losses)
        for a, b in zip(plain, losses):
            self.assertAlmostEqual(a, b, delta=0.03)
        self.assertTrue(all(p.dtype == torch.float32 for p in model.parameters()))

    def test_outputs_are_single_precision(self):
        with agent({"amp": "bf16"}):
            model = CNN()
            self.assertEqual(model(images(1)[0][0]).dtype, torch.float32)

    def test_own_autocast(self):
        with agent({"amp": "bf16"}) as tuned:
            model = CNN()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                output = model(images(1)[0][0])
            self.assertEqual(output.dtype, torch.bfloat16)
            self.assertIn("own autocast (bf16)", tuned.knob("amp")["reason"])

    def test_low_precision_model(self):
        with agent({"amp": "bf16"}) as tuned:
            nn.Linear(3, 3).bfloat16()(torch.randn(2, 3).bfloat16()).sum().backward()
            self.assertIn("in bfloat16 already", tuned.knob("amp")["reason"])

    def test_with_checkpointing(self):
        with agent({"amp": "bf16"}):
            one, plain, _ = train_gpt(dropout=0.1)
        with agent({"amp": "bf16", "checkpoint": "all"}) as tuned:
            two, ours, _ = train_gpt(dropout=0.1)
            self.assertEqual(tuned.knob("amp")["effective"], "bf16")
            self.assertEqual(tuned.knob("checkpoint")["effective"], "all")
        self.assertEqual(one, two)
        self.assertEqual(distance(plain, ours), 0.0)

    def test_off(self):
        with agent({"amp": "off"}) as tuned:
            train_cnn(1)
            self.assertEqual(tuned.knob("amp")["effective"], "off")

    def test_copies_traces_and_teachers(self):
        with agent({"amp": "bf16", "checkpoint": "all"}) as tuned:
            model = CNN(norm=False)
            x = images(1)[0][0]
            teacher = copy.deepcopy(model).requires_grad_(False)
            model(x).sum().backward()
            before = teacher(x)
            self.assertEqual(before.dtype, torch.float32)
            twin = copy.deepcopy(model)
            file = io.BytesIO()
            torch.save(model, file)
            file.seek(0)
            loaded = torch.load(file, weights_only=False)
            self.assertEqual(distance(state_of(model), state_of(loaded)), 0.0)
            self.assertEqual(set(vars(model)), set(vars(twin)))
            traced = torch.jit.trace(twin, x)
            graph = torch.fx.symbolic_trace(twin)
            with torch.no_grad():
                self.assertLess(distance([traced(x)], [before]), 1e-6)
                self.assertLess(distance([graph(x)], [before]), 1e-6)
            self.assertEqual(tuned.of("fault"), [])
        with agent():  # what the unmodified model computes
            torch.manual_seed(0)
        self.assertEqual(teacher(x).dtype, torch.float32)
        self.assertEqual(distance([teacher(x)], [before]), 0.0)


class Roots(unittest.TestCase):
    def test_what_is_told(self):
        with agent() as tuned:
            train_gpt(3)
            told = tuned.of("root")
            roots = tuned.session.roots
            self.assertFalse(roots.detecting)
        self.assertIs(nn.Module.__call__, nn.Module._wrapped_call_impl)
        self.assertEqual([r["returns"] for r in told], ["", "tuple"])
        last = told[-1]
        self.assertEqual(last["class"], "GPT")
        self.assertTrue(last["returns_loss"])
        self.assertEqual(last["batch"], 8)
        self.assertEqual(last["blocks"]["path"], "transformer.h")
        self.assertEqual(last["blocks"]["count"], 4)
        self.assertEqual(last["device"], "cpu")

    def test_two_roots_one_late(self):
        with agent() as tuned:
            torch.manual_seed(0)
            one, two = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 1))
            first = torch.optim.SGD(one.parameters(), lr=0.1)
            second = torch.optim.SGD(two.parameters(), lr=0.1)
            for i in range(20):
                x = torch.randn(2, 4)
                one(x).sum().backward()
                first.step()
                if i >= 10:
                    two(one(x)).sum().backward()
                    second.step()
            self.assertEqual([r.name for r in tuned.session.roots.roots], ["Linear", "Sequential"])
            self.assertFalse(tuned.session.roots.detecting)

    def test_calls_in_backward_are_no_roots(self):
        from torch.utils.checkpoint import checkpoint

        with agent() as tuned:
            layer = nn.Linear(4, 4)

            class Model(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.layer = layer

                def forward(self, x):
                    return checkpoint(lambda y: self.layer(y).relu(), x, use_reentrant=False)

            Model()(torch.randn(2, 4)).sum().backward()
            self.assertEqual([r.name for r in tuned.session.roots.roots], ["Model"])

    def test_compiled_models(self):
        for how in ("wrapped", "in place"):
            with agent({"amp": "bf16", "checkpoint": "all"}) as tuned:
                torch._dynamo.reset()
                torch.manual_seed(0)
                model = CNN(norm=False)
                if how == "wrapped":
                    called = torch.compile(model, backend="eager")
                else:
                    model.compile(backend="eager")
                    called = model
                optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
                for x, y in images(4):
                    optimizer.zero_grad()
                    F.cross_entropy(called(x), y).backward()
                    optimizer.step()
                self.assertEqual(tuned.of("fault"), [])
                self.assertEqual(tuned.knob("amp")["effective"], "bf16", how)
                self.assertEqual(tuned.knob("checkpoint")["effective"], "all", how)
                self.assertEqual(sum(torch._dynamo.utils.counters["graph_break"].values()), 0)


if __name__ == "__main__":
    unittest.main()
