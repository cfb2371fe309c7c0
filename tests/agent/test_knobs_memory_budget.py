"""`activation_memory_budget`: less is kept for the backward pass, training stays, and dropout is refused.

What is compiled is traced, differentiated and partitioned as ever; the C++ of it, which takes its time and is
not what the budget is about, is made in one case of test_knobs_compile.py only.
"""

import unittest

import torch
from models_knobs import CNN, GPT, images, tokens
from support_knobs import agent, distance, state_of
from test_knobs_compile import QUICK
from torch import nn
from torch._functorch import config, partitioners
from torch.nn import functional as F


def kept_by(output):
    """Bytes that compiled code keeps for the backward pass of this output."""
    found, left, seen = 0, [output.grad_fn], set()
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if "CompiledFunction" in node.name():
            found += sum(t.numel() * t.element_size() for t in node.saved_tensors if t is not None)
        left.extend(following for following, _ in node.next_functions)
    return found


def gpt(steps=12, dropout=0.0, prepare=None):
    """Trains; the state afterwards, and bytes kept in the last step."""
    torch.manual_seed(0)
    model = GPT("loss", layers=2, dropout=dropout)
    if prepare is not None:
        prepare(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 4))
    for batch in tokens(steps):
        optimizer.zero_grad()
        loss = model(batch[:, :-1], batch[:, 1:])
        kept = kept_by(loss)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        schedule.step()
    return state_of(model), kept


def cnn(steps=12):
    torch.manual_seed(0)
    model = CNN()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for x, y in images(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        kept = kept_by(loss)
        loss.backward()
        optimizer.step()
    return state_of(model), kept


def autoencoder(steps=12):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.LayerNorm(64), nn.Linear(64, 8), nn.Tanh())
    decoder = nn.Sequential(nn.Linear(8, 64), nn.SiLU(), nn.LayerNorm(64), nn.Linear(64, 32))
    optimizer = torch.optim.RMSprop([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    for step in range(steps):
        x = torch.randn(64, 32, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        output = decoder(encoder(x))
        kept = kept_by(output)
        F.mse_loss(output, x).backward()
        optimizer.step()
    return state_of(encoder, decoder), kept


@unittest.skipUnless(hasattr(config, "activation_memory_budget"), "this PyTorch has no such setting")
class Budget(unittest.TestCase):
    def setUp(self):
        self.cached = getattr(config, "enable_autograd_cache", None)
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()

    tearDown = setUp

    def tuned(self, train, **settings):
        self.setUp()
        with agent({"compile": "default", **settings}) as tuned:
            result = train()
            self.assertEqual(tuned.of("fault"), [])
            self.report = tuned.knob("activation_memory_budget")
            self.all = {name: tuned.knob(name) for name in settings}
        # As it was: what is compiled later, by whomever, has no budget.
        self.assertEqual(config.activation_memory_budget, 1.0)
        self.assertEqual(getattr(config, "enable_autograd_cache", None), self.cached)
        self.assertEqual(partitioners.choose_saved_values_set.__module__, partitioners.__name__)
        return result

    def refused(self, train=gpt, **settings):
        before = train()
        after = self.tuned(train, **settings)
        self.assertIsNone(self.report["effective"], self.report)
        return before, after, self.report["reason"]


@QUICK
class Training(Budget):
    def compare(self, train, *budgets):
        plain, _ = train()
        _, whole = self.tuned(train)
        for budget in budgets:
            with self.subTest(budget=budget):
                state, kept = self.tuned(train, activation_memory_budget=budget)
                self.assertEqual(self.report["effective"], budget, self.report)
                self.assertLess(distance(plain, state), 1e-5)
                self.assertLess(kept, 0.9 * whole)

    def test_less_is_kept_and_parameters_stay(self):
        self.compare(gpt, "0.5", "0.25", "0")

    def test_statistics_of_batch_norm_are_updated_once(self):
        self.compare(cnn, "0.25")

    def test_two_models(self):
        self.compare(autoencoder, "0.25")
        self.assertEqual(self.report["objects"], 2, self.report)
        self.assertIn("of 2 compiled graphs", self.report["how"])

    def test_one_is_what_it_is_anyway(self):
        whole = self.tuned(gpt)
        one = self.tuned(gpt, activation_memory_budget="1")
        self.assertEqual(self.report["effective"], "1")
        self.assertEqual(whole[1], one[1])

    def test_a_script_that_compiles_by_itself(self):
        whole = gpt(prepare=lambda model: model.compile())
        self.setUp()
        with agent({"activation_memory_budget": "0.25"}) as tuned:
            state, kept = gpt(prepare=lambda model: model.compile())
            self.assertEqual(tuned.of("fault"), [])
            self.assertEqual(tuned.knob("activation_memory_budget")["effective"], "0.25")
        self.assertLess(distance(whole[0], state), 1e-5)
        self.assertLess(kept, 0.9 * whole[1])


@QUICK
class Refusals(Budget):
    def test_dropout_of_a_layer(self):
        _, _, reason = self.refused(lambda: gpt(3, dropout=0.1), activation_memory_budget="0.25")
        self.assertIn("GPT draws random numbers (dropout)", reason)

    def test_random_numbers_that_no_layer_tells_of(self):
        """Seen in the graph: the masks of the backward pass are those of the forward pass all the same."""

        class Noisy(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = nn.Linear(8, 8, bias=False)

            def forward(self, x):
                mask = (torch.rand_like(x) < 0.5).to(x.dtype)
                return (self.linear(x).sin() * mask).exp().sum()

        def train():
            torch.manual_seed(0)
            model, x = Noisy(), torch.ones(4, 8)
            result = model(x)
            result.backward()
            return [model.linear.weight.grad, result.detach()]

        torch.manual_seed(1)
        whole = self.tuned(train)
        for budget in ("0.25", "0"):
            ours = self.tuned(train, activation_memory_budget=budget)
            self.assertIn("the model draws random numbers", self.report["reason"])
            self.assertEqual(distance(whole, ours), 0.0)

    def test_attention_that_drops_nothing_is_taken(self):
        class Attention(nn.Module):
            def __init__(self):
                super().__init__()
                self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

            def forward(self, x):
                q, k, v = (t.unflatten(-1, (2, 8)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
                return self.out(y.transpose(1, 2).flatten(2)).square().mean()

        def train():
            torch.manual_seed(0)
            model = Attention()
            model(torch.randn(4, 6, 16)).backward()
            return [p.grad for p in model.parameters()]

        plain = train()
        ours = self.tuned(train, activation_memory_budget="0.5")
        self.assertEqual(self.report["effective"], "0.5", self.report)
        self.assertLess(distance(plain, ours), 1e-6)

    def test_beside_checkpointing(self):
        _, _, reason = self.refused(lambda: gpt(2), activation_memory_budget="0.5", checkpoint="all")
        self.assertEqual(reason, "checkpoint already says what is computed again")
        self.assertEqual(self.all["checkpoint"]["effective"], "all")

    def test_a_script_that_sets_it_by_itself(self):
        self.addCleanup(setattr, config, "activation_memory_budget", 1.0)
        config.activation_memory_budget = 0.75
        with agent({"compile": "default", "activation_memory_budget": "0.5"}) as tuned:
            gpt(2)
            reason = tuned.knob("activation_memory_budget")["reason"]
        self.assertEqual(reason, "the script sets activation_memory_budget to 0.75 by itself")
        self.assertEqual(config.activation_memory_budget, 0.75)


class Uncompiled(Budget):
    def test_without_compile(self):
        with agent({"activation_memory_budget": "0.5"}) as tuned:
            gpt(2)
            reason = tuned.knob("activation_memory_budget")["reason"]
        self.assertEqual(reason, "it is a setting of torch.compile, and GPT is not compiled")

    def test_where_compile_is_not_in_force(self):
        for settings in (
            {"compile": "reduce-overhead", "activation_memory_budget": "0.5"},
            {"activation_memory_budget": "0.5", "compile": "reduce-overhead"},
        ):
            with agent(settings) as tuned:
                gpt(2)
                reason = tuned.knob("activation_memory_budget")["reason"]
            self.assertRegex(reason, "^nothing is compiled: .*need a GPU")
        self.assertEqual(config.activation_memory_budget, 1.0)


if __name__ == "__main__":
    unittest.main()
