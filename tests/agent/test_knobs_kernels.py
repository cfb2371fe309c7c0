"""Knobs of the kernels and of memory between phases: in force, or refused with a reason."""

import subprocess
import sys
import textwrap
import unittest
from unittest import mock

import torch
from models_knobs import CNN, images
from support import AGENT
from support_knobs import agent, distance, state_of
from test_knobs_optimizer import STEPS, cnn, gpt, mlp
from torch import nn


class SetToNone(unittest.TestCase):
    def compare(self, train, objects=1, **how):
        plain, _ = train(zero=False, **how)
        dropped = []
        original = torch.optim.Optimizer.step

        with agent({"set_to_none": True}) as tuned:
            ours, optimizer = train(zero=False, **how)
            report = tuned.knob("set_to_none")
            self.assertEqual(tuned.of("fault"), [])
            optimizer.zero_grad(set_to_none=False)
            dropped = [p.grad for group in optimizer.param_groups for p in group["params"]]
        self.assertEqual((report["effective"], report["objects"]), (True, objects), report)
        self.assertEqual(set(dropped), {None})
        self.assertEqual(distance(state_of(plain), state_of(ours)), 0.0)
        self.assertIs(torch.optim.Optimizer.step, original)

    def test_three_scripts_train_the_same(self):
        self.compare(gpt)
        self.compare(cnn)  # through the module
        self.compare(mlp, momentum=0.9, make=torch.optim.SGD)

    def test_a_parameter_without_a_gradient_in_some_steps_ends_it_and_training_stays(self):
        def train():
            torch.manual_seed(0)
            often, seldom = nn.Linear(3, 1), nn.Linear(3, 1)
            optimizer = torch.optim.AdamW([*often.parameters(), *seldom.parameters()], lr=0.1)
            for step in range(STEPS):
                optimizer.zero_grad(set_to_none=False)
                x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
                loss = often(x).square().mean() + (seldom(x).square().mean() if step % 3 == 0 else 0)
                loss.backward()
                optimizer.step()
            return state_of(often, seldom)

        plain = train()
        with agent({"set_to_none": True}) as tuned:
            ours = train()
            report = tuned.knob("set_to_none")
            self.assertEqual(tuned.of("fault"), [])
        self.assertEqual(report["reason"], "a parameter of AdamW gets no gradient in some steps")
        self.assertEqual(distance(plain, ours), 0.0)

    def test_a_script_that_does_not_ask_for_zeros(self):
        with agent({"set_to_none": True}) as tuned:
            cnn(6)
            reason = tuned.knob("set_to_none")["reason"]
        self.assertEqual(reason, "the script was not seen to pass set_to_none=False")

    def test_it_is_detected(self):
        for zero in (None, True, False):
            with agent() as tuned:
                mlp(5, zero=zero)
                self.assertEqual(tuned.of("detected")[-1]["keeps_zeros"], zero is False)


class ChannelsLast(unittest.TestCase):
    def test_weights_inputs_and_outputs_are_turned_and_training_agrees(self):
        seen = []

        def train():
            torch.manual_seed(0)
            model = CNN()
            identity = [id(p) for p in model.parameters()]
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
            model.blocks[0].c1.register_forward_hook(
                lambda m, args, out: seen.append(
                    [t.is_contiguous(memory_format=torch.channels_last) for t in (*args, out)]
                )
            )
            for x, y in images(STEPS):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
            self.assertEqual(identity, [id(p) for p in model.parameters()])
            return state_of(model)

        plain = train()
        self.assertNotIn([True, True], seen)
        seen.clear()
        with agent({"channels_last": True}) as tuned:
            ours = train()
            report = tuned.knob("channels_last")
            self.assertEqual(tuned.of("fault"), [])
        self.assertEqual((report["effective"], report["objects"]), (True, 9), report)
        self.assertIn([True, True], seen)
        self.assertNotIn([False, False], seen)
        # Statistics of BatchNorm are not updated by the call that tries it; the rest is rounding.
        self.assertLess(distance(plain, ours), 1e-4)

    def refused(self, model, x):
        with agent({"channels_last": True}) as tuned:
            before = state_of(model)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
            for _ in range(2):
                output = model(x)
                output.sum().backward()
                optimizer.step()
            report = tuned.knob("channels_last")
            self.assertEqual(tuned.of("fault"), [])
        self.assertIsNone(report["effective"])
        self.assertEqual(distance(before, state_of(model)), 0.0)
        self.assertTrue(all(p.is_contiguous() for p in model.parameters()))
        return report["reason"]

    def test_refusals(self):
        images4 = torch.randn(2, 3, 8, 8)
        self.assertIn("no convolution", self.refused(nn.Linear(8, 2), images4))
        flat = nn.Sequential(nn.Unflatten(1, (3, 8, 8)), nn.Conv2d(3, 4, 3), nn.Flatten())
        self.assertIn("not called with a batch of images", self.refused(flat, torch.randn(2, 192)))

    def test_a_model_that_relies_on_strides_is_left_as_it_was(self):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv = nn.Conv2d(3, 4, 3)

            def forward(self, x):
                return self.conv(x).view(len(x), -1)

        self.assertIn("Net fails with it: view size", self.refused(Net(), torch.randn(2, 3, 8, 8)))

    def test_images_that_the_root_returns_come_back_as_the_script_expects_them(self):
        with agent({"channels_last": True}) as tuned:
            model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
            model(torch.randn(2, 3, 8, 8)).view(-1).sum().backward()
            self.assertEqual(tuned.knob("channels_last")["effective"], True)

    def test_the_scripts_own_is_not_stacked(self):
        model = CNN().to(memory_format=torch.channels_last)
        with agent({"channels_last": True}) as tuned:
            model(images(1)[0][0]).sum().backward()
            report = tuned.knob("channels_last")
            self.assertTrue(tuned.of("root")[-1]["channels_last"])
        self.assertEqual(report["reason"], "the script uses channels_last by itself")


class GpuOnly(unittest.TestCase):
    def test_on_the_processor_they_say_why_not(self):
        settings = {"tf32": True, "cudnn_benchmark": True, "empty_cache": True}
        before = torch.backends.cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32
        with agent(settings) as tuned:
            cnn(2)
            reports = {name: tuned.knob(name) for name in settings}
            self.assertEqual(tuned.of("fault"), [])
        for name in ("tf32", "cudnn_benchmark"):
            self.assertIn("CNN is on cpu", reports[name]["reason"])
        self.assertEqual(reports["empty_cache"]["reason"], "there is no GPU in this process")
        self.assertEqual(before, (torch.backends.cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32))

    def test_tf32_through_the_interface_that_the_script_uses(self):
        """PyTorch raises once both have been written and disagree; a process for each order."""
        code = """
            import sys, torch
            sys.path.insert(0, {agent!r})
            from autofit_agent.tf32 import read_tf32, write_tf32
            {own}
            for on in (True, False):
                write_tf32(torch, on)
                assert read_tf32(torch)[:2] == (on, on), read_tf32(torch)
                {after}
            print(read_tf32(torch)[2])
        """
        older = "assert torch.get_float32_matmul_precision() == ('high' if on else 'highest')"
        newer = "assert torch.backends.cuda.matmul.fp32_precision == ('tf32' if on else 'ieee')"
        cases = [
            ("pass", older, "allow_tf32"),
            ("torch.set_float32_matmul_precision('high')", older, "allow_tf32"),
        ]
        if hasattr(torch.backends.cuda.matmul, "fp32_precision"):  # from PyTorch 2.9 on
            cases.append(
                ("torch.backends.cuda.matmul.fp32_precision = 'tf32'", newer, "fp32_precision"),
            )
        for own, after, word in cases:
            text = textwrap.dedent(code).format(agent=AGENT, own=own, after=after)
            done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(word, done.stdout)

    def test_the_cache_is_emptied_where_phases_change(self):
        """The GPU is made up; when it is asked is what is tested."""
        asked = []
        cuda = mock.patch.multiple(
            torch.cuda,
            is_available=lambda: True,
            is_initialized=lambda: True,
            synchronize=lambda: asked.append("wait"),
            empty_cache=lambda: asked.append("empty"),
        )
        model = CNN()
        with agent({"empty_cache": True}) as tuned:
            knob = tuned.session.knobs.all[0]
            self.assertEqual(knob.reason, "there is no GPU in this process")
            knob.reason = None
            with cuda:
                knob.start()
                x, y = images(1)[0]
                for train in (True, False, True, True):
                    model.train(train)
                    with torch.set_grad_enabled(train):
                        nn.functional.cross_entropy(model(x), y)
            self.assertEqual(knob.verify(), True)
        self.assertEqual(asked, ["wait", "empty"] * 2)


if __name__ == "__main__":
    unittest.main()
