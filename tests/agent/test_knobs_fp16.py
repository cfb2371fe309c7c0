"""`amp=fp16`: the gradient scaler that the script does not have."""

import unittest
import warnings

import torch
from models_knobs import CNN, GPT, images, tokens
from support_knobs import agent, distance, state_of
from torch import nn
from torch.nn import functional as F

TINY = 1e-8  # a factor that takes every gradient below fp16's smallest number


class Faint(nn.Module):
    """Gradients vanish in fp16: the derivative inside is far below 6e-8, though the update is not."""

    def __init__(self, returns_loss=False):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
        self.returns_loss = returns_loss

    def forward(self, x, y):
        error = self.body(x) - y
        if self.returns_loss:
            return error.float().square().mean() * TINY
        return error


def faint(steps=20, returns_loss=False, lr=0.05 / TINY, batch=8):
    """SGD, whose step is as small as its gradient."""
    torch.manual_seed(0)
    model = Faint(returns_loss)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(steps):
        x = torch.randn(batch, 8, generator=generator)
        y = x.sum(1, keepdim=True)
        out = model(x, y)
        loss = out if returns_loss else out.square().mean() * TINY
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item() / TINY)
    return losses, model


def half_without_scaler(returns_loss):
    """The same with autocast and nothing else: what the scale is for."""
    torch.manual_seed(0)
    model = Faint(returns_loss)
    x = torch.randn(8, 8)
    with torch.autocast("cpu", dtype=torch.float16):
        out = model(x, x.sum(1, keepdim=True))
    (out if returns_loss else out.float().square().mean() * TINY).backward()
    return max(float(p.grad.abs().max()) for p in model.parameters())


class Gradients(unittest.TestCase):
    def gradients(self, how, settings=None):
        """Gradients and parameters of a few steps, seen where a script sees them."""
        with agent(settings) as tuned:
            torch.manual_seed(0)
            model = GPT()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            seen = how(model, optimizer)
            report = tuned.knob("amp")
            self.assertEqual(tuned.of("fault"), [])
        return seen, report

    def close(self, how, share=0.03):
        plain, _ = self.gradients(how)
        ours, report = self.gradients(how, {"amp": "fp16"})
        self.assertEqual(report["effective"], "fp16", report)
        self.assertEqual(len(plain), len(ours))
        for one, other in zip(plain, ours):
            size = float(one.abs().max())
            self.assertLess(float((one - other).abs().max()), share * size + 1e-6)
        self.assertGreater(distance(plain, ours), 0.0)
        return report

    def test_in_grad_after_backward(self):
        def how(model, _):
            batch = tokens(1)[0]
            model(batch[:, :-1], batch[:, 1:])[1].backward()
            return [p.grad.clone() for p in model.parameters()]

        report = self.close(how)
        self.assertIn("scaled by 65536", report["how"])

    def test_of_several_calls_add_up(self):
        def how(model, _):
            for batch in tokens(3):
                (model(batch[:, :-1], batch[:, 1:])[1] / 3).backward()
            return [p.grad.clone() for p in model.parameters()]

        self.close(how)

    def test_added_to_zeros(self):
        def how(model, optimizer):
            for batch in tokens(2):
                optimizer.zero_grad(set_to_none=False)
                model(batch[:, :-1], batch[:, 1:])[1].backward()
            return [p.grad.clone() for p in model.parameters()]

        self.close(how)

    def test_clipped(self):
        def how(model, optimizer):
            norms = []
            for batch in tokens(12):
                optimizer.zero_grad()
                model(batch[:, :-1], batch[:, 1:])[1].backward()
                norms.append(nn.utils.clip_grad_norm_(model.parameters(), 0.1))
                optimizer.step()
            return [torch.stack(norms)]

        self.close(how)

    def test_in_hooks_of_parameters(self):
        def how(model, _):
            seen = []
            model.head.weight.register_hook(lambda g: seen.append(g.clone()))
            model.transformer["ln"].weight.register_post_accumulate_grad_hook(
                lambda p: seen.append(p.grad.clone())
            )
            for batch in tokens(2):
                model(batch[:, :-1], batch[:, 1:])[1].backward()
            seen += [model.head.weight.grad.clone(), model.transformer["ln"].weight.grad.clone()]
            return seen

        self.close(how)

    def test_by_autograd_grad_and_of_leaves_outside(self):
        def how(model, _):
            factor = torch.ones((), requires_grad=True)
            batch = tokens(1)[0]
            loss = model(batch[:, :-1], batch[:, 1:])[1]
            (loss * factor).backward(retain_graph=True)
            return [factor.grad, torch.autograd.grad(loss, model.head.weight)[0]]

        self.close(how)

    def test_with_a_penalty_outside_of_the_model(self):
        def how(model, _):
            batch = tokens(1)[0]
            loss = model(batch[:, :-1], batch[:, 1:])[1] + sum(p.square().sum() for p in model.parameters())
            loss.backward()
            return [p.grad.clone() for p in model.parameters()]

        self.close(how)


class Underflow(unittest.TestCase):
    def learns(self, settings, **how):
        plain, _ = faint(**how)
        with agent(settings) as tuned:
            ours, _ = faint(**how)
            for name, value in settings.items():
                self.assertEqual(tuned.knob(name)["effective"], value, tuned.knob(name))
            self.assertEqual(tuned.of("fault"), [])
        self.assertLess(plain[-1], 0.5 * plain[0])
        for a, b in zip(plain, ours):
            self.assertAlmostEqual(a, b, delta=0.05 * plain[0])

    def test_without_the_scale_nothing_is_left(self):
        self.assertEqual(half_without_scaler(False), 0.0)
        self.assertEqual(half_without_scaler(True), 0.0)

    def test_the_loss_outside(self):
        self.learns({"amp": "fp16"})

    def test_the_loss_inside(self):
        self.learns({"amp": "fp16"}, returns_loss=True)

    def test_the_scale_is_inside_each_part(self):
        self.learns({"amp": "fp16", "accumulation": 4}, returns_loss=True)

    def test_a_scale_after_the_parts_would_lose_every_gradient(self):
        """The same with the parts' scale taken away: what the test above would miss."""
        from autofit_agent.knobs import accumulation

        right = accumulation.Accumulation._scale
        accumulation.Accumulation._scale = lambda knob: 1.0
        self.addCleanup(setattr, accumulation.Accumulation, "_scale", right)
        with agent({"amp": "fp16", "accumulation": 4}):
            losses, model = faint(returns_loss=True)
            self.assertEqual(max(float(p.grad.abs().max()) for p in model.parameters()), 0.0)

    def test_with_checkpointing(self):
        with agent({"amp": "fp16"}):
            torch.manual_seed(0)
            plain = self.steps()
        with agent({"amp": "fp16", "checkpoint": "all"}):
            torch.manual_seed(0)
            ours = self.steps()
        self.assertEqual(distance(plain, ours), 0.0)

    def steps(self):
        model = GPT(dropout=0.1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for batch in tokens(10):
            optimizer.zero_grad()
            model(batch[:, :-1], batch[:, 1:])[1].backward()
            optimizer.step()
        return state_of(model)


class Overflow(unittest.TestCase):
    """A loss that is too large for the first scale."""

    def run_steps(self, make, steps=12, factor=100.0):
        with agent({"amp": "fp16"}) as tuned, warnings.catch_warnings():
            warnings.simplefilter("error")
            torch.manual_seed(0)
            model = CNN(norm=False)
            optimizer = make(model.parameters())
            schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3)
            begun = state_of(model)
            moved = []
            for x, y in images(steps):
                before = state_of(model)
                optimizer.zero_grad()
                (F.cross_entropy(model(x), y) * factor).backward()
                optimizer.step()
                schedule.step()
                moved.append(distance(before, state_of(model)) > 0)
            scaling = tuned.session.detect.scaling
            scaling.settle()
            self.assertEqual(tuned.of("fault"), [])
            self.assertEqual(tuned.session.steps, steps)
            self.assertTrue(all(torch.isfinite(t).all() for t in state_of(model)))
            return moved, scaling.value(), begun, optimizer

    def test_steps_are_skipped_and_the_scale_shrinks(self):
        makers = {
            "plain": lambda p: torch.optim.SGD(p, lr=1e-3),
            "adam": lambda p: torch.optim.Adam(p, lr=1e-4),
            "fused": lambda p: torch.optim.AdamW(p, lr=1e-4, fused=True),
        }
        for name, make in makers.items():
            moved, scale, _, optimizer = self.run_steps(make)
            self.assertFalse(moved[0], name)
            self.assertIn(True, moved, name)
            self.assertEqual(scale, 65536 * 0.5 ** moved.count(False), name)
            counts = {float(s["step"]) for s in optimizer.state.values() if "step" in s}
            self.assertLessEqual(counts, {float(moved.count(True))}, name)

    def test_the_scale_grows(self):
        with agent({"amp": "fp16"}) as tuned:
            model = CNN(norm=False)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            for index, (x, y) in enumerate(images(5)):
                optimizer.zero_grad()
                (F.cross_entropy(model(x), y) * 0.01).backward()
                if index == 0:
                    tuned.session.detect.scaling.scaler.set_growth_interval(2)
                optimizer.step()
            self.assertEqual(tuned.session.detect.scaling.value(), 4 * 65536)

    def test_each_optimizer_by_itself(self):
        with agent({"amp": "fp16"}) as tuned:
            torch.manual_seed(0)
            one, two = CNN(norm=False), CNN(norm=False)
            first = torch.optim.SGD(one.parameters(), lr=0.01)
            second = torch.optim.SGD(two.parameters(), lr=0.01)
            x, y = images(1)[0]
            before = state_of(one), state_of(two)
            F.cross_entropy(one(x), y).backward()
            (F.cross_entropy(two(x), y) * 1e5).backward()
            first.step()
            second.step()
            self.assertGreater(distance(before[0], state_of(one)), 0.0)
            self.assertEqual(distance(before[1], state_of(two)), 0.0)
            self.assertEqual(tuned.session.detect.scaling.skipped, 1)
            # What another model's backward left is gone with the gradients.
            (F.cross_entropy(one(x), y) * 1e5).backward()
            first.zero_grad()
            F.cross_entropy(one(x), y).backward()
            first.step()
            self.assertEqual(tuned.session.detect.scaling.skipped, 1)


class Refusals(unittest.TestCase):
    def reason(self, script):
        with agent({"amp": "fp16"}) as tuned:
            model = CNN(norm=False)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            script(model, optimizer, *images(1)[0])
            return tuned.knob("amp")["reason"]

    def test_own_scaler(self):
        def before(model, optimizer, x, y):
            scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
            scaler.scale(F.cross_entropy(model(x), y)).backward()
            scaler.step(optimizer)
            scaler.update()

        self.assertIn("GradScaler of its own", self.reason(before))

    def test_own_scaler_built_late(self):
        def late(model, optimizer, x, y):
            loss = F.cross_entropy(model(x), y)
            torch.amp.GradScaler("cpu").scale(loss).backward()

        self.assertIn("GradScaler of its own", self.reason(late))

    def test_what_would_see_scaled_gradients(self):
        def hook(model, optimizer, x, y):
            out = model(x)
            out.register_hook(lambda g: g.clamp(-1, 1))

        def module_hook(model, optimizer, x, y):
            model.head.register_full_backward_hook(lambda *_: None)
            model(x)

        def retain(model, optimizer, x, y):
            model(x).retain_grad()

        def stop(model, optimizer, x, y):
            F.cross_entropy(model(x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)

        def twice(model, optimizer, x, y):
            torch.autograd.grad(F.cross_entropy(model(x), y), model.head.weight, create_graph=True)

        def lbfgs(model, optimizer, x, y):
            torch.optim.LBFGS(model.parameters())
            model(x)

        cases = [
            (hook, "scaled"), (module_hook, "scaled"), (retain, "scaled"), (stop, "not finite"),
            (twice, "twice"), (lbfgs, "LBFGS"),
        ]  # fmt: skip
        for script, words in cases:
            self.assertIn(words, self.reason(script))


if __name__ == "__main__":
    unittest.main()
