"""The optimizer's knobs from outside: in force, exact over many steps, or refused with a reason."""

import copy
import io
import unittest

import torch
from models_knobs import CNN, GPT, images, tokens
from support_knobs import agent, distance, state_of
from torch import nn

STEPS = 12
ROUNDING = 2e-6
ADAM = 2e-5  # its steps are as long for small gradients as for large ones


def gpt(steps=STEPS, make=torch.optim.AdamW, zero=None, **how):
    """A language model with clipping and a schedule."""
    torch.manual_seed(0)
    model = GPT(layers=2, **how)
    # A smaller epsilon makes long steps of what is zero but for rounding (the bias of attention's keys).
    optimizer = make(model.parameters(), lr=1e-3, weight_decay=0.1, eps=1e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for batch in tokens(steps):
        optimizer.zero_grad(**({} if zero is None else {"set_to_none": zero}))
        _, loss = model(batch[:, :-1], batch[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model, optimizer


def cnn(steps=STEPS, make=torch.optim.SGD, zero=None, **how):
    """An image classifier with momentum, two parameter groups and BatchNorm."""
    torch.manual_seed(0)
    model = CNN()
    groups = [{"params": model.blocks.parameters(), "lr": 0.01}, {"params": model.head.parameters()}]
    optimizer = make(groups, lr=0.05, **(how or {"momentum": 0.9, "weight_decay": 1e-3}))
    for x, y in images(steps):
        if zero is None:
            optimizer.zero_grad()
        else:
            model.zero_grad(zero)
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, optimizer


def mlp(steps=STEPS, make=torch.optim.Adagrad, zero=None, **how):
    """A small regression with gradients accumulated over two batches."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = make(model.parameters(), lr=0.05, **how)
    for step in range(steps):
        optimizer.zero_grad(**({} if zero is None else {"set_to_none": zero}))
        for part in range(2):
            x = torch.randn(8, 6, generator=torch.Generator().manual_seed(2 * step + part))
            nn.functional.mse_loss(model(x), x.sum(1, keepdim=True)).backward()
        optimizer.step()
    return model, optimizer


class Update(unittest.TestCase):
    """`optimizer`: loop, foreach or fused."""

    def compare(self, value, train, tolerance=ROUNDING, **how):
        plain, _ = train(**how)
        with agent({"optimizer": value}) as tuned:
            ours, optimizer = train(**how)
            report = tuned.knob("optimizer")
            self.assertEqual(tuned.of("fault"), [])
        self.assertEqual((report["effective"], report["objects"]), (value, 1), report)
        self.assertIn(type(optimizer).__name__, report["how"])
        self.assertLess(distance(state_of(plain), state_of(ours)), tolerance)

    def test_fused_is_exact(self):
        self.compare("fused", gpt, ADAM)
        self.compare("fused", cnn)
        self.compare("fused", mlp)
        self.compare("fused", mlp, make=torch.optim.Adam, tolerance=ADAM)

    def test_foreach_is_exact(self):
        self.compare("foreach", gpt, ADAM)
        self.compare("foreach", cnn)
        self.compare("foreach", mlp)
        self.compare("foreach", cnn, make=torch.optim.RMSprop, momentum=0.5, tolerance=ADAM)

    def test_a_loop_where_the_script_chose_another(self):
        self.compare("loop", cnn, fused=True, momentum=0.9)
        self.compare("loop", mlp, foreach=True)

    def test_the_kernel_is_really_another(self):
        """Read from what PyTorch calls, not from what it was told."""
        for value, name in (("fused", "aten::_fused_adamw_"), ("foreach", "aten::_foreach_addcdiv_")):
            for settings in ({}, {"optimizer": value}):
                with agent(settings), torch.profiler.profile() as profile:
                    gpt(2)
                called = {event.key for event in profile.key_averages()}
                self.assertEqual(name in called, bool(settings), (value, settings))

    def test_what_is_saved_is_the_scripts_own_and_loads_anywhere(self):
        plain, reference = cnn(make=torch.optim.Adam, weight_decay=0.1)
        with agent({"optimizer": "fused"}):
            _, optimizer = cnn(make=torch.optim.Adam, weight_decay=0.1)
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            self.assertTrue(all(group["fused"] for group in optimizer.param_groups))
        file.seek(0)
        saved = torch.load(file)
        self.assertEqual(saved["param_groups"], reference.state_dict()["param_groups"])
        reference.load_state_dict(saved)
        self.assertFalse(any(group["fused"] for group in reference.param_groups))
        # Loaded under the knob: the checkpoint does not switch it off, and training goes on as it would.
        with agent({"optimizer": "fused"}) as tuned:
            model = CNN()
            model.load_state_dict(plain.state_dict())
            optimizer = torch.optim.Adam(model.parameters())
            other = torch.optim.Adam(model.parameters())
            other.load_state_dict(optimizer.state_dict())
            for x, y in images(1):
                nn.functional.cross_entropy(model(x), y).backward()
                other.step()
            self.assertTrue(other.param_groups[0]["fused"])
            self.assertEqual(tuned.of("fault"), [])

    def test_what_is_added_later_is_updated_alike(self):
        with agent({"optimizer": "foreach"}) as tuned:
            model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
            optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1)
            optimizer.add_param_group({"params": model[1].parameters()})
            model(torch.ones(2, 4)).sum().backward()
            optimizer.step()
            self.assertEqual(tuned.knob("optimizer")["effective"], "foreach")
            self.assertTrue(all(group["foreach"] for group in optimizer.param_groups))
            self.assertIsNone(optimizer.state_dict()["param_groups"][1]["foreach"])

    def test_a_scaler_skips_the_same_steps(self):
        def train():
            torch.manual_seed(0)
            model = nn.Linear(3, 1)
            optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
            scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=3)
            updates, scales = [], []
            optimizer.register_step_post_hook(lambda *_: updates.append(len(scales)))
            for step in range(STEPS):
                x = torch.full((2, 3), float("inf") if step in (2, 7) else 0.5 + step)
                optimizer.zero_grad()
                scaler.scale(model(x).mean()).backward()
                scaler.step(optimizer)
                scaler.update()
                scales.append(scaler.get_scale())
            return state_of(model), updates, scales

        plain = train()
        with agent({"optimizer": "fused"}) as tuned:
            ours = train()
            self.assertEqual(tuned.knob("optimizer")["effective"], "fused")
        self.assertLess(distance(plain[0], ours[0]), ROUNDING)
        self.assertEqual(plain[1:], ours[1:])
        self.assertEqual(len(plain[1]), STEPS - 2)

    def refused(self, value, run):
        with agent({"optimizer": value}) as tuned:
            run()
            tuned.session.flush()
            self.assertEqual(tuned.of("fault"), [])
            report = tuned.knob("optimizer")
        self.assertIsNone(report["effective"], report)
        return report["reason"]

    def test_refusals(self):
        self.assertEqual(
            self.refused("fused", lambda: cnn(2, torch.optim.RMSprop)), "RMSprop has no fused update"
        )

        def lbfgs():
            model = nn.Linear(2, 1)
            optimizer = torch.optim.LBFGS(model.parameters())

            def closure():
                optimizer.zero_grad()
                loss = model(torch.ones(3, 2)).square().sum()
                loss.backward()
                return loss

            optimizer.step(closure)

        self.assertIn("one way to update", self.refused("foreach", lbfgs))

        class Own(torch.optim.SGD):
            def step(self, closure=None):
                for group in self.param_groups:
                    for p in group["params"]:
                        p.data.sub_(p.grad, alpha=0.01)

        self.assertEqual(self.refused("fused", lambda: mlp(2, Own)), "Own has an update of its own")

        def differentiable():
            weight = torch.ones(2, requires_grad=True).clone()
            optimizer = torch.optim.SGD([weight], lr=0.1, differentiable=True)
            weight.grad = torch.ones(2)
            optimizer.step()

        self.assertIn("differentiated through", self.refused("foreach", differentiable))

    def test_sparse_gradients_are_found_before_the_first_update(self):
        def train():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Linear(4, 1))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for step in range(STEPS):
                optimizer.zero_grad()
                model(torch.tensor([step % 9, 3])).sum().backward()
                optimizer.step()
            return state_of(model)

        plain, ours = train(), []
        reason = self.refused("fused", lambda: ours.extend(train()))
        self.assertEqual(reason, "SGD is given sparse gradients")
        self.assertEqual(distance(plain, ours), 0.0)

    def test_the_part_of_a_step_and_what_is_possible_are_told(self):
        with agent() as tuned:
            gpt(6)
            update = tuned.of("detected")[-1]["update"]
        self.assertEqual(update["now"], "loop")
        self.assertEqual(update["values"], ["loop", "foreach", "fused"])
        self.assertTrue(0 < update["share"] < 1, update)
        with agent() as tuned:
            cnn(3, momentum=0.9, foreach=True)
            self.assertEqual(tuned.of("detected")[-1]["update"]["now"], "foreach")

    def test_copies_of_the_optimizer_still_train(self):
        with agent({"optimizer": "fused"}):
            model, optimizer = cnn(2)
            twin = copy.deepcopy(optimizer)
            twin.step()


if __name__ == "__main__":
    unittest.main()
