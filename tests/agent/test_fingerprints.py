"""What the agent tells of the first steps, and that looking leaves training as it is."""

import tempfile
import unittest

from support import HEAD, AgentTest

SCRIPT = (
    HEAD
    + """
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.drop = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.5)
        self.b = nn.Linear(16, 2)
        self.register_buffer("mask", torch.full((4, 4), float("-inf")))

    def forward(self, x):
        return self.b(self.drop(self.norm(self.a(x))))

torch.manual_seed(5)
model = Model()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(9):
    x, y = torch.randn(16, 8), torch.randint(0, 2, (16,))
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    if CLIP == "torch":
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    if CLIP == "by hand":
        norm = sum(p.grad.norm() ** 2 for p in model.parameters()) ** 0.5
        for p in model.parameters():
            p.grad.mul_(0.1 / norm)
    optimizer.step()
    print(step, loss.item(), model.norm.running_mean.sum().item(), model.training, flush=True)
"""
)


def lines(result):
    """Of the steps that every launch comes to; a trial ends when enough was measured."""
    found = result.out.splitlines()[:6]
    assert len(found) == 6, result.describe()
    return found


class Fingerprints(AgentTest):
    def launch(self, script, *args, **changes):
        """Each launch has a trial directory of its own."""
        self.trial = tempfile.mkdtemp(dir=self.folder)
        return super().launch(script, *args, **changes)

    def told(self, clip="torch", **changes):
        result = self.launch(SCRIPT.replace("CLIP", repr(clip)), **changes)
        self.assertEqual(result.code, 0, result.describe())
        self.assertEqual(result.all("fault"), [])
        return result

    def test_looking_leaves_training_as_it_is(self):
        looked, plain = self.told(), self.told(parity_steps=0)
        self.assertEqual(lines(looked), lines(plain))
        self.assertEqual(looked.one("parity")["steps"], 3)
        self.assertEqual(plain.all("parity"), [])

    def test_it_tells_parameters_buffers_and_an_output(self):
        told = self.told().one("parity")
        self.assertIsNone(told["without"])
        self.assertEqual(told["parameters"]["count"], 8 * 16 + 16 + 16 + 16 + 16 * 2 + 2)
        self.assertEqual(told["buffers"]["count"], 16 + 16 + 1, "the mask has not changed")
        self.assertEqual(told["inputs"]["count"], 2 * 8)
        self.assertEqual(told["outputs"]["the output"]["count"], 2 * 2)
        self.assertGreater(max(map(abs, told["update"])), 0)

    def test_norms_before_and_after_clipping_however_it_is_done(self):
        rows = {clip: self.told(clip).all("step") for clip in ("torch", "by hand")}
        for clip, steps in rows.items():
            for step in steps[:3]:
                self.assertGreater(step["grad_norm"], 0.2, clip)
                self.assertAlmostEqual(step["taken_norm"], 0.1, places=4, msg=clip)
            self.assertIsNone(steps[3]["grad_norm"], "no cost after the steps that are compared")

    def test_a_quiet_launch_draws_nothing(self):
        model = SCRIPT.replace("nn.Dropout(0.5)", "nn.Identity()")
        quiet = self.told(quiet=True)
        without = self.launch(model.replace("CLIP", "'torch'"), quiet=False)
        self.assertEqual(lines(quiet), lines(without))


if __name__ == "__main__":
    unittest.main()
