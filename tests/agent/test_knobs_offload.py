"""`offload`: bit for bit the script's own training; on the processor refused with the reason.

Nothing is gained by moving tensors from host memory to host memory, but it shows that what comes back is what
was taken away: the tests make the knob's class take the processor for a device.
"""

import io
import unittest

import torch
from models_knobs import tokens
from support_knobs import agent, distance, offload, optimizer_state, state_of
from test_knobs_selective import cnn, encoder, gpt
from torch import nn

Offload = offload.Offload


class Forced(unittest.TestCase):
    """The class takes the processor for a device, and every tensor for a large one."""

    def setUp(self):
        for name, value in (("devices", ("cuda", "cpu")), ("small", 0)):
            self.addCleanup(setattr, Offload, name, getattr(Offload, name))
            setattr(Offload, name, value)


class Exactness(Forced):
    def compare(self, value, train):
        plain = train()
        with agent({"offload": value}) as tuned:
            ours = train()
            report = tuned.knob("offload")
            self.assertEqual(tuned.of("fault"), [])
        self.assertEqual(report["effective"], value, report)
        self.assertEqual(distance(plain, ours), 0.0)
        return report

    def test_activations(self):
        for train in (gpt, cnn, encoder):
            report = self.compare("activations", train)
            self.assertGreater(report["objects"], 10)

    def test_optimizer_state(self):
        for train in (gpt, cnn, encoder):
            self.compare("optimizer", train)

    def test_activations_with_checkpointing(self):
        plain = gpt()
        with agent({"offload": "activations", "checkpoint": "alternate"}):
            self.assertEqual(distance(plain, gpt()), 0.0)

    def test_they_are_copies(self):
        """What autograd holds is not the tensor that the forward made."""
        packed = []
        with agent({"offload": "activations"}) as tuned:
            knob = next(k for k in tuned.session.knobs.all if k.name == "offload")
            original = knob.hooks.pack_hook

            def pack(tensor):
                result = original(tensor)
                packed.append((tensor.data_ptr(), result[1].data_ptr()))
                return result

            knob.hooks.pack_hook = pack
            model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
            parameters = {p.data_ptr() for p in model.parameters()}
            model(torch.randn(2, 4)).sum().backward()
        self.assertTrue(packed)
        for ours, copy in packed:
            self.assertNotEqual(ours, copy)
            self.assertNotIn(ours, parameters)


class Saving(Forced):
    def train(self, steps, stop=None):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 50))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for index, batch in enumerate(tokens(steps, length=15)):
            if index == stop:
                file = io.BytesIO()
                torch.save({"m": model.state_dict(), "o": optimizer.state_dict()}, file)
                file.seek(0)
                saved = torch.load(file)
                model = nn.Sequential(nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 50))
                model.load_state_dict(saved["m"])
                optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
                optimizer.load_state_dict(saved["o"])
            optimizer.zero_grad()
            model(batch.float() / 50).square().mean().backward()
            optimizer.step()
        return [*state_of(model), *optimizer_state(optimizer)]

    def test_a_checkpoint_saved_and_loaded_between_steps(self):
        plain = self.train(12)
        with agent({"offload": "optimizer"}) as tuned:
            ours = self.train(12, stop=5)
            self.assertEqual(tuned.of("fault"), [])
        self.assertEqual(distance(plain, ours), 0.0)

    def test_state_moves_and_keeps_its_identity(self):
        with agent({"offload": "optimizer"}):
            parameter = nn.Parameter(torch.ones(4))
            optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
            places = []
            optimizer.register_step_pre_hook(lambda *_: places.append(self.place(optimizer)))
            held = None
            for _ in range(3):
                parameter.grad = torch.ones(4)
                optimizer.step()
                held = held if held is not None else optimizer.state[parameter]["momentum_buffer"]
                places.append(self.place(optimizer))
            self.assertIs(held, optimizer.state[parameter]["momentum_buffer"])
        self.assertEqual(places[1], places[3])  # the same host memory after each step
        self.assertNotEqual(places[1], places[2])
        self.assertLess(distance([held], [torch.full((4,), 1.0 + 0.9 + 0.81)]), 1e-6)

    def place(self, optimizer):
        return [s["momentum_buffer"].data_ptr() for s in optimizer.state.values()]


class Refusals(unittest.TestCase):
    def reason(self, value, train=gpt):
        with agent({"offload": value}) as tuned:
            train(2)
            return tuned.knob("offload")["reason"]

    def test_on_the_processor(self):
        self.assertIn("in host memory already", self.reason("activations"))
        self.assertIn("in host memory already", self.reason("optimizer"))

    def test_parameters(self):
        self.assertIn("sharded modules", self.reason("parameters"))

    def test_none_is_read_back(self):
        with agent({"offload": "none"}) as tuned:
            gpt(1)
            self.assertEqual(tuned.knob("offload")["effective"], "none")


class Nothing(Forced):
    def test_an_optimizer_without_state(self):
        with agent({"offload": "optimizer"}) as tuned:
            model = nn.Linear(4, 4)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            model(torch.randn(2, 4)).sum().backward()
            optimizer.step()
            self.assertIn("keeps no state", tuned.knob("offload")["reason"])

    def test_small_tensors_stay(self):
        Offload.small = 1 << 30
        with agent({"offload": "activations"}) as tuned:
            gpt(1)
            self.assertIn("no activation of", tuned.knob("offload")["reason"])


if __name__ == "__main__":
    unittest.main()
