"""Kinds of training script, each run for real under the agent."""

import unittest

from support import HEAD, SCHEDULE, AgentTest

LOOP = """
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
data = TensorDataset(torch.randn(400, 8), torch.randint(0, 2, (400,)))
loader = DataLoader(data, batch_size=5, shuffle=True)
for epoch in range(100):
    for x, y in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
print("reached the end")
"""


class Scripts(AgentTest):
    def test_loader_loop(self):
        result = self.launch(HEAD + LOOP)
        self.assert_measured(result)
        self.assertNotIn("reached the end", result.out)
        early, training = result.all("hello")
        self.assertEqual((early["training"], training["training"]), (False, True))
        self.assertEqual(training["nonce"], "abc")
        self.assertTrue(training["argv"][1].endswith("script.py"))
        for step in result.all("step"):
            self.assertEqual(step["samples"], 5)
            self.assertEqual(step["elements"], 40)
            self.assertGreater(step["loss"], 0)
            self.assertGreater(step["seconds"], 0)
            self.assertGreater(step["rss"], 1 << 20)
        self.assertGreater(result.all("step")[0]["grad_norm"], 0)
        self.assertIsNone(result.all("step")[4]["grad_norm"])
        self.assertTrue(result.last("loader")["training"])
        self.assertEqual(result.last("loader")["batch_size"], 5)
        self.assertEqual(result.last("memory")["moment"], "end")
        self.assertGreater(result.last("memory")["bytes"]["rss_peak"], 1 << 20)
        self.assertEqual(result.all("framework")[0]["name"], "torch")

    def test_seeded_runs_have_the_same_losses(self):
        first = [e["loss"] for e in self.launch(HEAD + LOOP).all("step")]
        self.setUp()
        second = [e["loss"] for e in self.launch(HEAD + LOOP).all("step")]
        self.assertEqual(first[:6], second[:6])

    def test_a_disabled_scaler_double_precision_and_a_sequence_first(self):
        result = self.launch(
            HEAD
            + """
model = nn.LSTM(8, 4).double()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
scaler = torch.amp.GradScaler("cpu", enabled=False)
for _ in range(100):
    optimizer.zero_grad()
    output, _ = model(torch.randn(7, 3, 8, dtype=torch.double))
    scaler.scale(output.square().mean()).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
    model.eval()
    model(torch.randn(7, 3, 8, dtype=torch.double))  # an evaluation with gradients on
    model.train()
"""
        )
        self.assert_measured(result)
        self.assertEqual([e["samples"] for e in result.all("step")][:3], [3, 3, 3])
        self.assertGreater(result.all("step")[0]["grad_norm"], 0)

    def test_dictionary_batches_are_counted_by_their_indices(self):
        result = self.launch(
            HEAD
            + """
class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 999
    def __getitem__(self, i):
        return {"weight": torch.ones(3, 8), "i": i}

def collate(items):
    return {"x": torch.cat([item["weight"] for item in items])}

model = Net()
optimizer = torch.optim.AdamW(model.parameters())
while True:
    for batch in DataLoader(Data(), batch_size=4, collate_fn=collate, num_workers=2):
        model(**batch).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
"""
        )
        self.assert_measured(result)
        self.assertEqual({e["samples"] for e in result.all("step")}, {4})

    def test_no_loader(self):
        result = self.launch(
            HEAD
            + """
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
while True:
    model(torch.randn(12, 8)).mean().backward()
    optimizer.step()
    optimizer.zero_grad()
"""
        )
        self.assert_measured(result)
        self.assertEqual({e["samples"] for e in result.all("step")}, {12})

    def test_training_that_calls_no_module_has_no_root(self):
        """Layers that train themselves through their own methods are called only for predictions."""
        script = (
            HEAD
            + """
x, y = torch.randn(16, 8), torch.randint(0, 2, (16,))
net = Net()
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
for _ in range(12):
    optimizer.zero_grad()
    nn.functional.cross_entropy(net.body[2].forward(net.body[0].forward(x).relu()), y).backward()
    optimizer.step()
print(net(x).argmax(1))
"""
        )
        long = {**SCHEDULE, "min_steps": 40, "max_steps": 40}
        result = self.launch(script, settings={"amp": "bf16"}, ways={"amp": "agent"}, schedule=long)
        self.assertEqual(result.code, 0, result.describe())
        self.assertEqual(len(result.all("step")), 12, result.describe())
        self.assertEqual(result.all("root"), [], result.describe())
        amp = result.last("knob")
        self.assertIsNone(amp["effective"], result.describe())
        self.assertIn("no call of a module", amp["reason"])

    def test_gan_steps_are_the_generators(self):
        result = self.launch(
            HEAD
            + """
generator, critic = Net(), Net(2)
first = torch.optim.Adam(critic.parameters())
second = torch.optim.Adam(generator.parameters())
loader = DataLoader(torch.randn(3000, 2), batch_size=6)
for i, real in enumerate(loader):
    fake = generator(torch.randn(6, 8)).detach()
    (critic(fake).mean() - critic(real).mean()).backward()
    first.step()
    first.zero_grad()
    if i % 5 == 4:
        critic(generator(torch.randn(6, 8))).mean().backward()
        second.step()
        second.zero_grad()
"""
        )
        self.assert_measured(result)
        # Once the generator has stepped, a step holds five of the critic's batches.
        self.assertEqual({e["samples"] for e in result.all("step") if not e["warmup"]}, {30})

    def test_wrapped_optimizers_are_not_counted_twice(self):
        result = self.launch(
            HEAD
            + """
class Lookahead(torch.optim.Optimizer):
    def __init__(self, inner):
        super().__init__(inner.param_groups, {})
        self.inner = inner
    def step(self, closure=None):
        self.inner.step()

model = Net()
optimizer = Lookahead(torch.optim.SGD(model.parameters(), lr=0.1))
n = 0
while True:
    n += 1
    print("iteration", n, flush=True)
    model(torch.randn(3, 8)).mean().backward()
    optimizer.step()
    optimizer.zero_grad()
"""
        )
        self.assert_measured(result)
        self.assertEqual(result.out.count("iteration"), len(result.all("step")))

    def test_accumulation_sums_micro_batches(self):
        result = self.launch(
            HEAD
            + """
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = DataLoader(torch.randn(4000, 8), batch_size=3)
for i, x in enumerate(loader):
    loss = model(x).pow(2).mean() / 4
    loss.backward()
    print("loss", loss.item())
    if i % 4 == 3:
        optimizer.step()
        optimizer.zero_grad()
"""
        )
        self.assert_measured(result)
        self.assertEqual({e["samples"] for e in result.all("step")}, {12})
        losses = [float(row.split()[1]) for row in result.out.splitlines() if row.startswith("loss")]
        self.assertAlmostEqual(result.all("step")[0]["loss"], sum(losses[:4]), places=6)

    def test_without_optimizer_backward_is_the_step(self):
        result = self.launch(
            HEAD
            + """
model = Net()
while True:
    model(torch.randn(4, 8)).pow(2).mean().backward()
    with torch.no_grad():
        for p in model.parameters():
            p -= 0.1 * p.grad
            p.grad = None
"""
        )
        self.assert_measured(result)
        self.assertEqual({e["samples"] for e in result.all("step")}, {4})

    def test_inference(self):
        result = self.launch(
            HEAD
            + """
model = Net().eval()
with torch.inference_mode():
    while True:
        model(torch.randn(9, 8))
"""
        )
        self.assert_measured(result)
        self.assertEqual({e["samples"] for e in result.all("step")}, {9})

    def test_evaluation_before_training_is_no_inference(self):
        result = self.launch(
            HEAD
            + """
model = Net()
with torch.no_grad():
    for _ in range(50):
        model(torch.randn(64, 8))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
while True:
    model(torch.randn(2, 8)).mean().backward()
    optimizer.step()
"""
        )
        self.assert_measured(result)
        self.assertEqual({e["samples"] for e in result.all("step")[1:]}, {2})

    def test_bare_except_cannot_keep_the_trial_alive(self):
        result = self.launch(
            HEAD
            + """
import atexit
atexit.register(lambda: print("atexit ran"))
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for i in range(100):
    try:
        model(torch.randn(2, 8)).mean().backward()
        optimizer.step()
    except:
        print("swallowed")
    finally:
        pass
print("reached the end")
"""
        )
        self.assert_measured(result)
        self.assertEqual(result.out, "")

    def test_script_that_ends_first(self):
        result = self.launch(
            HEAD
            + """
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for i in range(3):
    model(torch.randn(2, 8)).mean().backward()
    optimizer.step()
"""
        )
        self.assertEqual(result.code, 0, result.describe())
        self.assertEqual(len(result.all("step")), 3)
        self.assertEqual(result.last("end")["reason"], "script_end")

    def test_exception(self):
        result = self.launch(HEAD + "Net()(torch.randn(1, 8))\nraise KeyError('no such column')\n")
        self.assertEqual(result.code, 1)
        end = result.last("end")
        self.assertEqual((end["reason"], end["error"]), ("exception", "KeyError: 'no such column'"))
        self.assertIn("KeyError", result.err)

    def test_exception_before_torch(self):
        result = self.launch("import no_such_module\n")
        self.assertEqual(result.code, 1)
        self.assertEqual([h["training"] for h in result.all("hello")], [False, True])
        self.assertIn("ModuleNotFoundError", result.last("end")["error"])

    def test_lbfgs_closure(self):
        result = self.launch(
            HEAD
            + """
model = Net()
optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
x = torch.randn(10, 8)
def closure():
    optimizer.zero_grad()
    loss = model(x).pow(2).mean()
    loss.backward()
    return loss
while True:
    optimizer.step(closure)
"""
        )
        self.assert_measured(result)

    def test_gradient_norm_is_taken_before_clipping(self):
        result = self.launch(
            HEAD
            + """
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
while True:
    (1000 * model(torch.randn(2, 8)).pow(2).mean()).backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    print("norm", float(norm))
    optimizer.step()
    optimizer.zero_grad()
"""
        )
        self.assert_measured(result)
        norms = [float(row.split()[1]) for row in result.out.splitlines()]
        self.assertGreater(norms[0], 1.0)
        self.assertAlmostEqual(result.all("step")[0]["grad_norm"] / norms[0], 1.0, places=5)

    def test_loss_and_norm_are_unscaled(self):
        result = self.launch(
            HEAD
            + """
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
x = torch.randn(2, 8)
while True:
    loss = model(x).pow(2).mean()
    print("loss", loss.item())
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
"""
        )
        self.assertEqual(result.all("fault"), [], result.describe())
        loss = float(result.out.splitlines()[0].split()[1])
        first = result.all("step")[0]
        self.assertAlmostEqual(first["loss"], loss, places=6)
        self.assertLess(first["grad_norm"], 100)


if __name__ == "__main__":
    unittest.main()
