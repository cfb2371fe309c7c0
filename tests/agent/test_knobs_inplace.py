"""`inplace`: bit for bit the script's own training; what somebody else needs is left alone."""

import unittest

import torch
from models_knobs import images
from support_knobs import agent, distance, state_of
from torch import nn
from torch.nn import functional as F


def conv(inside, outside, act=nn.ReLU):
    return nn.Sequential(nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), act())


class Plain(nn.Sequential):
    """Of VGG's kind: a Sequential of Sequentials, one of a class of its own."""

    def __init__(self):
        super().__init__(conv(3, 8), conv(8, 8, nn.ReLU6), nn.Flatten(), nn.Linear(512, 5))


class Residual(nn.Module):
    """Only one of four may be in place: what the others are given is added or handed on."""

    def __init__(self):
        super().__init__()
        self.stem, self.act, self.head = conv(3, 8), nn.ReLU(), nn.Linear(8, 5)
        self.features = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.LeakyReLU(0.1))
        self.branch = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))

    def forward(self, x):
        x = self.stem(x)
        x = x + self.branch(x)
        kept = []
        for layer in self.features:  # one by one: not the Sequential's own forward
            x = layer(x)
            kept.append(x)
        x = self.act(kept[0]) + kept[0] + kept[1]
        return self.head(x.mean((2, 3)))


class Paths(nn.Module):
    """Another path through the model in every second call."""

    def __init__(self):
        super().__init__()
        self.body, self.linear, self.head = conv(3, 8), nn.Linear(8, 8), nn.Linear(8, 5)
        self.tail = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.LeakyReLU())
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        x = self.body(x).mean((2, 3))
        if self.calls % 2:
            return self.head(self.tail(x))
        given = self.tail[0](x)
        return self.head(self.tail[1](given) + given)


def train(make, steps=12, change=None):
    torch.manual_seed(0)
    model = make()
    if change is not None:
        change(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for x, y in images(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


class InPlace(unittest.TestCase):
    def tuned(self, make, change=None, **settings):
        with agent({"inplace": True, **settings}) as tuned:
            model = train(make, change=change)
            self.assertEqual(tuned.of("fault"), [])
            report = tuned.knob("inplace")
            found = tuned.of("root")[-1]["in_place"]
        self.assertEqual(distance(state_of(train(make, change=change)), state_of(model)), 0.0)
        self.assertFalse(any(m.__dict__.get("inplace") for m in model.modules()))
        self.assertFalse(hasattr(nn.Sequential.forward, "__wrapped__"))
        return report, found

    def applied(self, count, found, *given, **settings):
        report, seen = self.tuned(*given, **settings)
        self.assertEqual((report["effective"], report["objects"]), (True, count), report)
        self.assertEqual(seen, found)

    def refused(self, reason, *given, **settings):
        report, _ = self.tuned(*given, **settings)
        self.assertIsNone(report["effective"], report)
        self.assertIn(reason, report["reason"])

    def test_a_plain_net(self):
        self.applied(2, 2, Plain)

    def test_a_residual_net_some_of_whose_activations_are_left_alone(self):
        self.applied(1, 2, Residual)

    def test_another_path_in_other_calls(self):
        self.applied(3, 3, Paths)

    def test_overwriting_what_is_added_would_train_otherwise(self):
        def wrong(model):
            model.features[1].inplace = True

        self.assertGreater(distance(state_of(train(Residual)), state_of(train(Residual, change=wrong))), 1e-3)

    def test_with_other_knobs(self):
        self.applied(2, 2, Plain, channels_last=False, checkpoint="none")
        with agent({"inplace": True, "amp": "bf16"}) as tuned:
            train(Plain)
            self.assertEqual(tuned.knob("inplace")["objects"], 2)
            self.assertEqual(tuned.knob("amp")["effective"], "bf16")

    def test_what_somebody_watches(self):
        kept = []

        def watch(model):
            model[0][1].register_forward_hook(lambda _module, _given, output: kept.append(output.detach()))

        self.applied(1, 2, Plain, watch)
        self.assertTrue(any((output < 0).any() for output in kept))

    def test_hooks_on_gradients(self):
        def watch(model):
            model[1][2].register_full_backward_hook(lambda *_: None)

        self.applied(1, 2, Plain, watch)

    def test_what_the_script_does_itself(self):
        def own(model):
            for m in model.modules():
                if "inplace" in m.__dict__:
                    m.__dict__["inplace"] = True

        with agent({"inplace": True}) as tuned:
            train(Plain, change=own)
            self.assertIn("Plain has no ReLU", tuned.knob("inplace")["reason"])

    def test_the_second_of_two_models(self):
        class Both(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.second = nn.Linear(3, 3), Plain()

            def __call__(self, x):
                # No root of its own: the script calls its models one after the other.
                return self.second(self.first(x.movedim(1, -1)).movedim(-1, 1))

        self.applied(2, 2, Both)

    def test_refused(self):
        self.refused("has no ReLU", lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 5)))
        if hasattr(torch.utils.checkpoint, "CheckpointPolicy"):  # from PyTorch 2.5 on
            self.refused("keeps results", Plain, checkpoint="selective")

    def test_torchscript_and_copies(self):
        import copy
        import pickle

        with agent({"inplace": True}):
            model = train(Plain, 2)
            x = images(1)[0][0]
            twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
            self.assertEqual(distance([model(x)], [twin(x)]), 0.0)
            torch.jit.script(conv(3, 4))
            torch.jit.trace(model.eval(), x)


if __name__ == "__main__":
    unittest.main()
