"""`idle_models`: bit for bit the script's own training; on the processor refused with the reason.

Nothing is gained by moving models from host memory to host memory, but it shows what is moved when, and that
what comes back is what was taken away: the tests make the knob's class take the processor for a device.
"""

import copy
import io
import pickle
import unittest

import torch
from support_knobs import agent, distance, idle_models, optimizer_state, state_of
from torch import nn
from torch.nn import functional as F

IdleModels = idle_models.IdleModels


def net(*sizes):
    layers = [layer for a, b in zip(sizes, sizes[1:]) for layer in (nn.Linear(a, b), nn.LeakyReLU(0.2))]
    return nn.Sequential(*layers[:-1])


def batch(step, rows=16, width=8):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(step))


def gan(steps=12, look=lambda *_: None, clip=False):
    """The generator draws without gradients for the critic, and with them for itself."""
    torch.manual_seed(0)
    generator, critic = net(4, 32, 8), net(8, 32, 1)
    g = torch.optim.Adam(generator.parameters(), lr=1e-2)
    c = torch.optim.Adam(critic.parameters(), lr=1e-2)
    for step in range(steps):
        noise = batch(100 + step, width=4)
        c.zero_grad()
        with torch.no_grad():
            fake = generator(noise)
        (critic(fake).mean() - critic(batch(step)).mean()).backward()
        look("critic", generator, critic)
        if clip:
            nn.utils.clip_grad_norm_(critic.parameters(), 0.1)
        c.step()
        if clip:
            for p in critic.parameters():
                p.data.clamp_(-0.1, 0.1)
        g.zero_grad()
        (-critic(generator(noise)).mean()).backward()
        look("generator", generator, critic)
        g.step()
    return [*state_of(generator, critic), *optimizer_state(g), *optimizer_state(c)]


def penalised():
    """A gradient penalty: the critic is differentiated twice."""
    torch.manual_seed(0)
    generator, critic = net(4, 16, 8), net(8, 16, 1)
    g, c = torch.optim.SGD(generator.parameters(), lr=0.1), torch.optim.SGD(critic.parameters(), lr=0.1)
    for step in range(10):
        noise, real = batch(50 + step, width=4), batch(step).requires_grad_()
        fake = generator(noise)
        out = critic(real)
        (slope,) = torch.autograd.grad(out.sum(), real, create_graph=True)
        c.zero_grad()
        (critic(fake.detach()).mean() - out.mean() + (slope.norm(dim=1) - 1).square().mean()).backward()
        c.step()
        g.zero_grad()
        (-critic(fake).mean()).backward()
        g.step()
    return state_of(generator, critic)


def distilled(steps=12, look=lambda *_: None):
    """A frozen teacher, a critic whose gradients go through, and an average that is looked at every step."""
    torch.manual_seed(0)
    teacher, judge, student = net(8, 64, 4).eval(), net(4, 16, 4), net(8, 16, 4)
    judge.requires_grad_(False)
    teacher.requires_grad_(False)
    average = copy.deepcopy(student).requires_grad_(False)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    for step in range(steps):
        x = batch(step)
        with torch.no_grad():
            target = teacher(x)
            anchor = average(x)
        out = student(x)
        look(teacher, judge, student, average)
        optimizer.zero_grad()
        (F.mse_loss(out, target) + 0.1 * F.mse_loss(judge(out), anchor)).backward()
        optimizer.step()
        with torch.no_grad():
            for ours, theirs in zip(average.parameters(), student.parameters()):
                ours.lerp_(theirs, 0.1)
    return [*state_of(student, average, teacher), *optimizer_state(optimizer)]


@unittest.skipUnless(hasattr(torch._C, "_storage_Use_Count"), "this PyTorch does not tell")
class Forced(unittest.TestCase):
    """The class takes the processor for a device, and every tensor for a large one."""

    def setUp(self):
        for name, value in (("devices", ("cuda", "cpu")), ("small", 0)):
            self.addCleanup(setattr, IdleModels, name, getattr(IdleModels, name))
            setattr(IdleModels, name, value)

    def run_with(self, train, **settings):
        with agent({"idle_models": "host", **settings}) as tuned:
            ours = train()
            self.assertEqual(tuned.of("fault"), [])
            self.knob = tuned.session.knobs.get("idle_models")
            return ours, tuned.knob("idle_models")


def away(module):
    return {type(p).__name__ for p in module.parameters()} == {"ParkedParameter"}


class Training(Forced):
    def compare(self, train, times, **settings):
        plain = train()
        ours, report = self.run_with(train, **settings)
        self.assertEqual(report["effective"], "host", report)
        self.assertEqual(distance(plain, ours), 0.0)
        self.assertGreaterEqual(self.knob.times, times)
        return report

    def test_two_models_in_turn(self):
        report = self.compare(gan, 20)
        self.assertIn("in host memory while another model trains: Sequential (0.0 MiB)", report["how"])

    def test_clipped_gradients_and_weights(self):
        self.compare(lambda: gan(clip=True), 20)

    def test_a_gradient_penalty(self):
        self.compare(penalised, 8)

    def test_frozen_models_and_an_average(self):
        self.compare(distilled, 20)

    def test_with_other_knobs(self):
        """Equal up to their rounding; `offload` moves the optimizer's state of all models by itself."""
        self.compare(gan, 20, offload="optimizer", optimizer="loop")

    def test_who_is_away_when(self):
        seen = []
        gan(look=lambda phase, g, c: seen.append((phase, away(g), away(c))))
        self.assertEqual({entry[1:] for entry in seen}, {(False, False)})
        seen.clear()
        self.run_with(lambda: gan(look=lambda phase, g, c: seen.append((phase, away(g), away(c)))))
        # Where the critic trains the generator is away; the other way round the critic takes part.
        self.assertEqual(set(seen[2:]), {("critic", True, False), ("generator", False, False)})

    def test_frozen_models_are_away_while_the_student_trains(self):
        seen = []

        def look(teacher, judge, student, average):
            seen.append((away(teacher), away(judge), away(student), away(average)))

        self.run_with(lambda: distilled(look=look))
        self.assertEqual(seen[-1], (True, True, False, True))

    def test_moments_and_gradients_are_away_too(self):
        kept = {}

        def look(phase, generator, critic):
            kept.setdefault(phase, []).append(set(map(type, self.tensors(generator))))

        with agent({"idle_models": "host"}) as tuned:
            self.optimizers = tuned.session.roots.optimizers
            gan(look=look)
        # Parameters, gradients, and both moments of each; a count of steps is no tensor of the device's.
        self.assertEqual({t.__name__ for t in kept["critic"][-1]}, {"ParkedParameter", "ParkedTensor"})

    def tensors(self, module):
        """Read past the attributes, which would bring everything back."""
        mine = [p for m in module.modules() for p in m._parameters.values() if p is not None]
        states = [o.state[p] for o in self.optimizers for p in mine if p in o.state]
        return [*mine, *(t for state in states for name, t in state.items() if name != "step")]


class Touched(Forced):
    """The script looks at a model that is away."""

    def touch(self, use):
        """`use(parked generator)` in the critic's phase of each step."""
        found, was_away = [], []

        def look(phase, generator, critic):
            if phase == "critic":
                was_away.append(away(generator))
                found.append(use(generator))
                self.assertFalse(away(generator))

        plain = gan(look=look)
        self.assertNotIn(True, was_away)
        expected, found[:] = list(found), []
        ours, _ = self.run_with(lambda: gan(look=look))
        self.assertIn(True, was_away)
        self.assertEqual(distance(plain, ours), 0.0)
        return expected, found

    def test_state_dict_copies_and_pickles(self):
        def saved(module):
            file = io.BytesIO()
            torch.save(module.state_dict(), file)
            file.seek(0)
            return [*torch.load(file).values()]

        def pickled(module):
            return [*pickle.loads(pickle.dumps(module)).parameters()]

        def copied(module):
            return [*copy.deepcopy(module).parameters()]

        def listed(module):
            return [copy.deepcopy(p) for p in list(module.parameters())]

        for use in (saved, pickled, copied, listed):
            with self.subTest(use=use.__name__):
                expected, found = self.touch(use)
                for ours, theirs in zip(expected, found):
                    self.assertEqual(distance([t.detach() for t in ours], [t.detach() for t in theirs]), 0.0)
                    self.assertLessEqual({type(t) for t in theirs}, {torch.Tensor, nn.Parameter})

    def test_functions_and_attributes(self):
        def total(module):
            first = next(module.parameters())
            norms = torch._foreach_norm(list(module.parameters()))
            return [
                first.numel(),
                float(torch.stack(norms).detach().sum()),
                str(first.device),
                first.data.dtype,
            ]

        expected, found = self.touch(total)
        self.assertEqual(expected, found)

    def test_a_gradient_that_is_held(self):
        held = {}

        def gradient(module):
            grads = [p.grad for p in module.parameters() if p.grad is not None]
            held.setdefault("grads", grads)
            return [float(g.sum()) for g in grads]

        expected, found = self.touch(gradient)
        self.assertEqual(expected, found)

    def test_everything_is_home_afterwards(self):
        modules = []
        self.run_with(lambda: gan(look=lambda _, g, c: modules.append((g, c))))
        for module in modules[-1]:
            self.assertEqual({type(p) for p in module.parameters()}, {nn.Parameter})


class Staying(Forced):
    def test_what_others_look_into_stays(self):
        """Views of one tensor, a layer that two models share, an alias that the script holds."""
        aliases, seen = [], []

        def train():
            torch.manual_seed(0)
            one, other = net(8, 16, 8), net(8, 16, 8)
            flat = torch.zeros(one[0].weight.numel() + 8)
            flat[8:] = one[0].weight.detach().flatten()
            one[0].weight.data = flat[8:].view_as(one[0].weight)
            other[2] = one[2]
            aliases[:] = [one[0].bias.data]
            optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (one, other)]
            for step in range(10):
                for model, optimizer in zip((one, other), optimizers):
                    optimizer.zero_grad()
                    model(batch(step)).square().mean().backward()
                    seen.append([type(p).__name__ for p in one.parameters()])
                    optimizer.step()
                    aliases[0].mul_(0.9)
            return [*state_of(one, other), flat]

        plain = train()
        ours, _ = self.run_with(train)
        self.assertEqual(distance(plain, ours), 0.0)
        self.assertEqual({name for names in seen for name in names}, {"Parameter"})

    def test_an_open_graph_keeps_its_model(self):
        """The generator's output waits for its gradient while the critic trains."""
        seen = []

        def train():
            torch.manual_seed(0)
            generator, critic = net(4, 32, 8), net(8, 32, 1)
            g = torch.optim.SGD(generator.parameters(), lr=0.1)
            c = torch.optim.SGD(critic.parameters(), lr=0.1)
            for step in range(10):
                fake = generator(batch(50 + step, width=4))
                c.zero_grad()
                (critic(fake.detach()).mean() - critic(batch(step)).mean()).backward()
                seen.append(away(generator))
                c.step()
                g.zero_grad()
                (-critic(fake).mean()).backward()
                g.step()
            return state_of(generator, critic)

        plain = train()
        ours, _ = self.run_with(train)
        self.assertEqual(distance(plain, ours), 0.0)
        self.assertNotIn(True, seen)


class Refusals(Forced):
    def reason(self, train, **settings):
        with agent({"idle_models": "host", **settings}) as tuned:
            train()
            self.assertEqual(tuned.of("fault"), [])
            return tuned.knob("idle_models")["reason"]

    def test_one_model(self):
        def train():
            model = net(8, 4, 8)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for step in range(12):
                optimizer.zero_grad()
                model(batch(step)).sum().backward()
                optimizer.step()

        self.assertIn("no other one is called", self.reason(train))

    def test_compiled_code(self):
        self.assertIn("stay where they are", self.reason(lambda: gan(1), compile="reduce-overhead"))

    def test_activations_that_are_moved(self):
        self.assertIn("already watches", self.reason(lambda: gan(1), offload="activations"))

    def test_device_is_read_back(self):
        with agent({"idle_models": "device"}) as tuned:
            gan(1)
            self.assertEqual(tuned.knob("idle_models")["effective"], "device")


class OnTheProcessor(unittest.TestCase):
    def test_models_are_in_host_memory_already(self):
        plain = gan()
        with agent({"idle_models": "host"}) as tuned:
            ours = gan()
            self.assertEqual(tuned.knob("idle_models")["reason"], "the models are in host memory already")
            self.assertEqual(tuned.of("fault"), [])
        self.assertEqual(distance(plain, ours), 0.0)


if __name__ == "__main__":
    unittest.main()
