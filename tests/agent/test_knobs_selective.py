"""`checkpoint=selective`: bit for bit the script's own training, and less memory than without."""

import unittest
from types import SimpleNamespace

import torch
import torch.utils.checkpoint
from models_knobs import CNN, GPT, images, tokens
from support_knobs import agent, distance, optimizer_state, state_of
from torch import nn
from torch.nn import functional as F

STEPS = 12
NEEDED = unittest.skipUnless(
    hasattr(torch.utils.checkpoint, "create_selective_checkpoint_contexts"),
    "PyTorch keeps the results of chosen operators from 2.5 on",
)


def gpt(steps=STEPS, dropout=0.2):
    torch.manual_seed(0)
    model = GPT(dropout=dropout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for batch in tokens(steps):
        _, loss = model(batch[:, :-1], batch[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return [*state_of(model), *optimizer_state(optimizer)]


def cnn(steps=STEPS):
    """BatchNorm: its running statistics are buffers that the forward changes."""
    torch.manual_seed(0)
    model = CNN()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for x, y in images(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return [*state_of(model), *optimizer_state(optimizer)]


def encoder(steps=STEPS):
    """torch's own layers, with attention by the fused kernel and dropout around it."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 3), nn.Linear(16, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        x = torch.randn(4, 6, 16, generator=generator)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return [*state_of(model), *optimizer_state(optimizer)]


class InPlace(nn.Module):
    """Changes the result of its convolution, which was to be kept."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return F.relu(self.conv(x), inplace=True) * 2.0


@NEEDED
class Exactness(unittest.TestCase):
    def compare(self, train, blocks):
        plain = train()
        with agent({"checkpoint": "selective"}) as tuned:
            ours = train()
            report = tuned.knob("checkpoint")
            self.assertEqual(tuned.of("fault"), [])
        self.assertEqual(report["effective"], "selective", report)
        self.assertEqual(report["objects"], blocks, report)
        self.assertEqual(distance(plain, ours), 0.0)

    def test_gpt_with_dropout(self):
        self.compare(gpt, 4)

    def test_cnn_with_batch_norm(self):
        self.compare(cnn, 4)

    def test_encoder_with_dropout_in_attention(self):
        self.compare(encoder, 3)

    def test_a_result_that_is_changed_in_place_is_computed_again(self):
        def train():
            torch.manual_seed(0)
            model = nn.Sequential(InPlace(), InPlace(), nn.Conv2d(3, 1, 1))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for x, _ in images(STEPS):
                optimizer.zero_grad()
                model(x).square().mean().backward()
                optimizer.step()
            return state_of(model)

        plain = train()
        with agent({"checkpoint": "selective"}) as tuned:
            ours = train()
            self.assertIn("changed in place", tuned.knob("checkpoint")["reason"])
            self.assertEqual(tuned.of("fault"), [])
        self.assertEqual(distance(plain, ours), 0.0)

    def test_a_second_backward_through_the_same_blocks(self):
        def train():
            torch.manual_seed(0)
            model = GPT(dropout=0.2)
            batch = tokens(1)[0]
            _, loss = model(batch[:, :-1], batch[:, 1:])
            loss.backward(retain_graph=True)
            loss.backward()
            return [p.grad for p in model.parameters()]

        plain = train()
        with agent({"checkpoint": "selective"}):
            ours = train()
        self.assertEqual(distance(plain, ours), 0.0)


@NEEDED
class What(unittest.TestCase):
    def test_products_are_not_computed_again(self):
        """Counted below autograd: products of a step, less those of the backward formulas."""
        from torch.utils._python_dispatch import TorchDispatchMode

        class Count(TorchDispatchMode):
            products = pointwise = 0

            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                self.products += func in (torch.ops.aten.addmm.default, torch.ops.aten.bmm.default)
                self.pointwise += func is torch.ops.aten.gelu.default
                return func(*args, **(kwargs or {}))

        def step():
            torch.manual_seed(0)
            model = GPT()
            batch = tokens(1)[0]
            with Count() as count:
                model(batch[:, :-1], batch[:, 1:])[1].backward()
            return count.products, count.pointwise

        plain = step()
        with agent({"checkpoint": "all"}):
            everything = step()
        with agent({"checkpoint": "selective"}):
            ours = step()
        self.assertEqual((plain[1], everything[1], ours[1]), (4, 8, 8))
        self.assertGreater(everything[0], plain[0])
        self.assertEqual(ours[0], plain[0])

    def test_attention_that_draws_a_mask_is_computed_again(self):
        from autofit_agent.knobs import selective

        def policy(*args, **kwargs):
            return selective.Selection(torch).policy(SimpleNamespace(is_recompute=False), *args, **kwargs)

        save, again = (torch.utils.checkpoint.CheckpointPolicy[n] for n in ("MUST_SAVE", "PREFER_RECOMPUTE"))
        flash = torch.ops.aten._scaled_dot_product_flash_attention.default
        efficient = torch.ops.aten._scaled_dot_product_efficient_attention.default
        self.assertEqual(policy(flash, 0, 0, 0), save)
        self.assertEqual(policy(flash, 0, 0, 0, 0.1), again)
        self.assertEqual(policy(efficient, 0, 0, 0, None, True, 0.0), save)
        self.assertEqual(policy(efficient, 0, 0, 0, None, True, dropout_p=0.1), again)
        self.assertEqual(policy(torch.ops.aten.gelu.default, 0), again)

    def test_blocks_without_products(self):
        class Scale(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = nn.Sequential(nn.LayerNorm(4), nn.GELU())

            def forward(self, x):
                return self.inner(x)

        with agent({"checkpoint": "selective"}) as tuned:
            nn.Sequential(Scale(), Scale())(torch.randn(2, 4)).sum().backward()
            self.assertIn("nothing whose result", tuned.knob("checkpoint")["reason"])

    def test_compiled_models_are_left_to_the_compiler(self):
        with agent({"checkpoint": "selective"}) as tuned:
            torch._dynamo.reset()
            model = CNN(norm=False)
            torch.compile(model, backend="eager")(images(1)[0][0]).sum().backward()
            self.assertIn("the compiler chooses", tuned.knob("checkpoint")["reason"])


if __name__ == "__main__":
    unittest.main()
