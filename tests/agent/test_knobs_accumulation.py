"""Micro-batches inside the root's call: the same training, or a refusal with a reason."""

import unittest

import torch
from models_knobs import CNN, GPT, images, tokens
from support_knobs import agent, distance, state_of
from torch import nn
from torch.nn import functional as F

ROUNDING = 1e-5  # of values up to 10


def train(model, batches, step, lr=0.1):
    """Steps over batches; parameters, buffers and losses afterwards."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    losses = []
    for batch in batches:
        optimizer.zero_grad()
        loss = step(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return [*state_of(model), torch.tensor(losses)]


def both(model, batch):
    _, loss = model(batch[:, :-1], batch[:, 1:])
    return loss


def alone(model, batch):
    return model(batch[:, :-1], batch[:, 1:])


def outside(model, batch):
    logits = model(batch[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def gpt(**how):
    torch.manual_seed(0)
    return GPT(**how)


class Same(unittest.TestCase):
    def compare(self, make, batches, step, parts=4, expect=None, how=None, **options):
        plain = train(make(), batches, step, **options)
        with agent({"accumulation": parts}) as tuned:
            ours = train(make(), batches, step, **options)
            report = tuned.knob("accumulation")
            self.assertEqual(tuned.of("fault"), [])
            self.assertEqual(len([r for r in tuned.of("knob")]), 1, tuned.of("knob"))
        self.assertEqual(report["effective"], expect or parts, report)
        if how:
            self.assertIn(how, report["how"])
        self.assertLess(distance(plain, ours), ROUNDING)
        self.assertGreater(distance(plain, state_and_nothing(make(), plain)), 1e-4)  # it did train
        return tuned

    def test_loss_beside_logits(self):
        self.compare(lambda: gpt(returns="both"), tokens(6), both, how="taken at once")

    def test_loss_alone(self):
        self.compare(lambda: gpt(returns="loss"), tokens(6), alone, how="taken at once")

    def test_loss_outside(self):
        self.compare(lambda: gpt(returns="logits"), tokens(6), outside, how="computed again")

    def test_one_label_a_sample_that_may_not_count(self):
        """Of some batches the first and last samples all count, of others not."""

        class Scores(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))

            def forward(self, x, labels):
                return F.cross_entropy(self.body(x), labels)

        def rows(step):
            g = torch.Generator().manual_seed(step)
            labels = torch.randint(0, 4, (16,), generator=g)
            labels[step % 7 :: 5] = -100
            return torch.randn(16, 8, generator=g), labels

        def make():
            torch.manual_seed(0)
            return Scores()

        batches = [rows(i) for i in range(12)]
        self.compare(make, batches, lambda model, batch: model(*batch), how="labels other than -100")

    def test_uneven_last_batch(self):
        batches = [*tokens(3), tokens(1, batch=7)[0], tokens(1, batch=3)[0], tokens(1, batch=1)[0]]
        self.compare(lambda: gpt(returns="both"), batches, both)
        self.compare(lambda: gpt(returns="logits"), batches, outside)

    def test_cnn_and_criterion(self):
        def make():
            torch.manual_seed(0)
            return CNN(norm=False)

        criterion = nn.CrossEntropyLoss()
        self.compare(make, images(6), lambda m, b: criterion(m(b[0]), b[1]))
        criterion = nn.CrossEntropyLoss(reduction="sum")
        self.compare(make, images(6), lambda m, b: criterion(m(b[0]), b[1]))

    def test_sum_loss_inside(self):
        class Summed(CNN):
            def forward(self, x, y):
                return {"loss": F.cross_entropy(super().forward(x), y, reduction="sum")}

        def make():
            torch.manual_seed(0)
            return Summed(norm=False)

        self.compare(make, images(4), lambda m, b: m(*b)["loss"])

    def test_padded_labels(self):
        batches = tokens(6)
        for i, batch in enumerate(batches):
            for row in range(8):
                batch[row, 16 - (row * (i + 1)) % 13 :] = -100

        def step(model, batch):
            return model(batch[:, :-1].clamp(min=0), batch[:, 1:])[1]

        self.compare(lambda: gpt(returns="both", ignore=-100), batches, step, how="labels other than -100")

    def test_padding_that_comes_later(self):
        batches = tokens(6)
        for batch in batches[2:]:
            batch[:4, 8:] = -100

        def step(model, batch):
            return model(batch[:, :-1].clamp(min=0), batch[:, 1:])[1]

        self.compare(lambda: gpt(returns="both", ignore=-100), batches, step, how=None)

    def test_weights_of_labels_show_in_gradients(self):
        """Nearly equal losses: a count that is off by a label a sample must not pass."""
        batches = tokens(4)
        for i, batch in enumerate(batches):
            for row in range(8):
                batch[row, 17 - (row * (i + 3)) % 12 :] = -100  # the first label of a row always counts

        class Shifts(GPT):
            def forward(self, input_ids, attention_mask, labels):
                logits, _ = super().forward(input_ids)
                return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

        def make():
            torch.manual_seed(0)
            model = Shifts(returns="both", length=17)
            for p in model.parameters():
                p.data.mul_(0.05)
            return model

        def step(model, batch):
            ids = batch.clamp(min=1)
            return model(ids, (batch != -100).long(), batch)

        self.compare(make, batches, step, how="labels other than -100 after a shift by one")

    def test_counts_and_vectors_beside_the_loss(self):
        class Counts(nn.Module):
            def __init__(self):
                super().__init__()
                self.w = nn.Linear(4, 3)

            def forward(self, x, y):
                out = self.w(x)
                right = (out.argmax(-1) == y).sum()
                return {"loss": F.cross_entropy(out, y), "right": right, "load": out.detach().amax(0)}

        g = torch.Generator().manual_seed(3)
        batches = [(torch.randn(8, 4, generator=g), torch.randint(0, 3, (8,), generator=g)) for _ in range(5)]

        def run():
            torch.manual_seed(0)
            model = Counts()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
            seen = []
            for x, y in batches:
                out = model(x, y)
                optimizer.zero_grad()
                out["loss"].backward()
                optimizer.step()
                seen += [out["right"].double(), *out["load"].double()]
            return [*state_of(model), torch.stack(seen)]

        plain = run()
        with agent({"accumulation": 4}) as tuned:
            ours = run()
            self.assertEqual(tuned.of("fault"), [])
            self.assertEqual(tuned.knob("accumulation")["effective"], 4)
        self.assertLess(distance(plain, ours), ROUNDING)

    def test_own_accumulation_of_the_script(self):
        def run():
            model = gpt(returns="both")
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for i, batch in enumerate(tokens(8)):
                (both(model, batch) / 2).backward()
                if i % 2:
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=False)
            return state_of(model)

        plain = run()
        with agent({"accumulation": 2}) as tuned:
            ours = run()
            self.assertEqual(tuned.of("detected")[-1]["accumulation"], 2)
        self.assertLess(distance(plain, ours), ROUNDING)

    def test_hooks_of_parameters_see_whole_gradients(self):
        def run():
            model = gpt(returns="both")
            calls = []
            for p in model.parameters():
                p.register_hook(lambda g: calls.append(1) or g.clamp(-1e-3, 1e-3) * 0.5)
            both(model, tokens(1)[0]).backward()
            return [p.grad for p in model.parameters()], len(calls)

        plain, n = run()
        with agent({"accumulation": 4}):
            ours, m = run()
        self.assertEqual(n, m)
        self.assertLess(distance(plain, ours), 1e-7)

    def test_logits_that_are_looked_at(self):
        def run(after):
            model = gpt(returns="both")
            optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
            seen = []
            for batch in tokens(5):
                logits, loss = model(batch[:, :-1], batch[:, 1:])
                self.assertEqual(logits.shape, (8, 16, 50))
                if not after:
                    seen.append((logits.argmax(-1) == batch[:, 1:]).float().mean() + logits.detach().mean())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                if after:
                    seen.append(logits.detach().abs().mean())
            return [*state_of(model), torch.stack(seen)]

        for after in (False, True):
            plain = run(after)
            with agent({"accumulation": 4}) as tuned:
                ours = run(after)
                self.assertEqual(tuned.of("fault"), [])
            self.assertLess(distance(plain, ours), ROUNDING)

    def test_gradient_through_logits(self):
        def step(model, batch):
            logits, loss = model(batch[:, :-1], batch[:, 1:])
            return loss + 0.1 * logits.square().mean()

        self.compare(lambda: gpt(returns="both"), tokens(5), step)

    def test_two_losses(self):
        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 4))

            def forward(self, x):
                y = self.net(x)
                return (y - x).square().mean(), y.abs().mean()

        def make():
            torch.manual_seed(0)
            return Two()

        def step(model, x):
            one, two = model(x)
            return one + 0.3 * two

        g = torch.Generator().manual_seed(3)
        self.compare(make, [torch.randn(8, 4, generator=g) for _ in range(5)], step)

    def test_backward_twice(self):
        def run():
            model = gpt(returns="both")
            loss = both(model, tokens(1)[0])
            loss.backward(retain_graph=True)
            (loss * 2).backward()
            return [p.grad for p in model.parameters()]

        plain = run()
        with agent({"accumulation": 4}):
            ours = run()
        self.assertLess(distance(plain, ours), 1e-6)

    def test_inputs_that_need_a_gradient(self):
        def run(returns_loss):
            torch.manual_seed(0)
            first = nn.Linear(4, 6)

            class Head(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.w = nn.Linear(6, 2)

                def forward(self, x, y):
                    out = self.w(x.tanh())
                    return F.cross_entropy(out, y) if returns_loss else out

            head = Head()
            optimizer = torch.optim.SGD([*first.parameters(), *head.parameters()], lr=0.1)
            g = torch.Generator().manual_seed(3)
            for _ in range(4):
                x, y = torch.randn(8, 4, generator=g), torch.randint(0, 2, (8,), generator=g)
                out = head(first(x), y)
                loss = out if returns_loss else F.cross_entropy(out, y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            return state_of(first, head)

        for returns_loss in (True, False):
            plain = run(returns_loss)
            with agent({"accumulation": 3}) as tuned:
                ours = run(returns_loss)
                self.assertEqual(tuned.knob("accumulation")["effective"], 3)
                self.assertEqual(tuned.of("fault"), [])
            self.assertLess(distance(plain, ours), ROUNDING)

    def test_weights_from_elsewhere(self):
        def run():
            torch.manual_seed(0)
            shared = nn.Parameter(torch.randn(4, 4))

            class Model(nn.Module):
                def __init__(self):
                    super().__init__()
                    self.w = nn.Linear(4, 4)
                    self.other = [shared]

                def forward(self, x):
                    return (self.w(x) @ self.other[0]).square().mean()

            model = Model()
            optimizer = torch.optim.SGD([shared, *model.parameters()], lr=0.1)
            g = torch.Generator().manual_seed(3)
            for _ in range(4):
                optimizer.zero_grad()
                model(torch.randn(8, 4, generator=g)).backward()
                optimizer.step()
            return [*state_of(model), shared.detach()]

        plain = run()
        with agent({"accumulation": 2}) as tuned:
            ours = run()
            self.assertEqual(tuned.knob("accumulation")["effective"], 2)
        self.assertLess(distance(plain, ours), ROUNDING)

    def test_masks_of_length_by_length(self):
        class Masked(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

            def forward(self, x, mask):
                return self.layer(x, src_mask=mask)

        def make():
            torch.manual_seed(0)
            return Masked()

        g = torch.Generator().manual_seed(3)
        for length in (6, 8):  # 8 is the batch too
            mask = torch.triu(torch.full((length, length), float("-inf")), 1)
            batches = [torch.randn(8, length, 8, generator=g) for _ in range(3)]
            self.compare(make, batches, lambda m, x, mask=mask: m(x, mask).square().mean())

    def test_with_autocast_and_checkpointing(self):
        for returns, step in (("both", both), ("logits", outside)):
            with agent({"amp": "bf16"}):
                plain = train(gpt(returns=returns), tokens(4), step)
            with agent({"amp": "bf16", "checkpoint": "all", "accumulation": 4}) as tuned:
                ours = train(gpt(returns=returns), tokens(4), step)
                self.assertEqual(tuned.of("fault"), [])
                self.assertEqual(
                    [tuned.knob(k)["effective"] for k in ("amp", "checkpoint", "accumulation")],
                    ["bf16", "all", 4],
                )
            self.assertLess(distance(plain[-1:], ours[-1:]), 2e-2)

    def test_two_roots_of_a_gan(self):
        def run():
            torch.manual_seed(0)
            make = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 5))
            judge = nn.Sequential(nn.Linear(5, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))
            a = torch.optim.Adam(make.parameters())
            b = torch.optim.Adam(judge.parameters())
            g = torch.Generator().manual_seed(3)
            bce = nn.BCEWithLogitsLoss()
            for _ in range(5):
                real, z = torch.randn(8, 5, generator=g), torch.randn(8, 3, generator=g)
                fake = make(z)
                b.zero_grad()
                bce(judge(real), torch.ones(8, 1)).backward()
                bce(judge(fake.detach()), torch.zeros(8, 1)).backward()
                b.step()
                a.zero_grad()
                bce(judge(fake), torch.ones(8, 1)).backward()
                a.step()
            return state_of(make, judge)

        plain = run()
        with agent({"accumulation": 4}) as tuned:
            ours = run()
            self.assertEqual(tuned.knob("accumulation")["effective"], 4)
            self.assertEqual(len(tuned.session.roots.roots), 2)
        self.assertLess(distance(plain, ours), ROUNDING)


def state_and_nothing(model, like):
    return [*state_of(model), like[-1]]


class Refused(unittest.TestCase):
    def refusal(self, model, *args):
        """The reason, for a model called with these arguments."""
        torch.manual_seed(0)
        before = {id(m): set(vars(m)) for m in model.modules()}
        with agent({"accumulation": 2}) as tuned:
            output = model(*args)
            report = tuned.knob("accumulation")
            self.assertEqual(tuned.of("fault"), [])
        self.assertIsNone(report["effective"], report)
        torch.manual_seed(0)
        plain = model(*args)
        first = [
            t for t in (output if isinstance(output, tuple) else (output,)) if isinstance(t, torch.Tensor)
        ]
        second = [t for t in (plain if isinstance(plain, tuple) else (plain,)) if isinstance(t, torch.Tensor)]
        if report["reason"].find("BatchNorm") < 0:
            self.assertEqual(distance(first, second), 0.0)
        self.assertEqual(before, {id(m): before[id(m)] & set(vars(m)) for m in model.modules()})
        return report["reason"]

    def test_batch_norm(self):
        self.assertIn("BatchNorm", self.refusal(CNN(), images(1)[0][0]))

    def test_recurrent_state(self):
        class Words(nn.Module):
            def __init__(self):
                super().__init__()
                self.embed, self.lstm = nn.Embedding(9, 8), nn.LSTM(8, 8, 2)
                self.head = nn.Linear(8, 9)

            def forward(self, x, hidden):
                y, hidden = self.lstm(self.embed(x), hidden)
                return self.head(y), hidden

        x = torch.randint(0, 9, (6, 4))
        hidden = (torch.zeros(2, 4, 8), torch.zeros(2, 4, 8))
        reason = self.refusal(Words(), x, hidden)
        self.assertRegex(reason, "Words: .*(two samples|of the samples fails)")

    def test_state_in_an_attribute(self):
        class Remembers(nn.Module):
            def __init__(self):
                super().__init__()
                self.w = nn.Linear(4, 4)
                self.memory = None

            def forward(self, x):
                y = self.w(x)
                self.memory = y.detach()
                return y

        model = Remembers()
        self.assertIn("`memory`", self.refusal(model, torch.randn(6, 4)))

    def test_buffers_that_change(self):
        class Counts(nn.Module):
            def __init__(self):
                super().__init__()
                self.w = nn.Linear(4, 4)
                self.register_buffer("queue", torch.zeros(4))

            def forward(self, x):
                if self.training:
                    self.queue.mul_(0.9).add_(x.detach().mean(0))
                return self.w(x)

        model = Counts()
        with agent({"accumulation": 2}) as tuned:
            x = torch.ones(6, 4)
            model(x)
            self.assertIn("`queue`", tuned.knob("accumulation")["reason"])
        self.assertEqual(distance([model.queue], [torch.ones(4)]), 0.0)

    def test_contrastive(self):
        class Contrastive(nn.Module):
            def __init__(self):
                super().__init__()
                self.w = nn.Linear(4, 4)

            def forward(self, x):
                y = F.normalize(self.w(x))
                return F.cross_entropy(y @ y.T / 0.1, torch.arange(len(x)))

        self.assertRegex(
            self.refusal(Contrastive(), torch.randn(6, 4)), "neither mean nor sum of theirs: .* apart"
        )

    def test_no_batch(self):
        class Quiet(nn.Module):
            def __init__(self):
                super().__init__()
                self.w = nn.Parameter(torch.ones(3))

            def forward(self):
                return self.w.sum()

        self.assertIn("no tensor argument", self.refusal(Quiet()))

    def test_double_backward(self):
        with agent({"accumulation": 2}) as tuned:
            x = torch.randn(4, 3, requires_grad=True)
            model = nn.Linear(3, 1)
            torch.autograd.grad(model(x).sum(), x, create_graph=True)
            report = tuned.knob("accumulation")
        self.assertIsNone(report["effective"])
        self.assertIn("differentiates twice", report["reason"])

    def test_lbfgs(self):
        with agent({"accumulation": 2}) as tuned:
            model = nn.Linear(3, 1)
            torch.optim.LBFGS(model.parameters())
            model(torch.randn(4, 3))
            self.assertIn("LBFGS", tuned.knob("accumulation")["reason"])

    def test_fewer_samples_than_parts(self):
        with agent({"accumulation": 8}) as tuned:
            model = nn.Linear(3, 1)
            model(torch.randn(4, 3)).sum().backward()
            report = tuned.knob("accumulation")
        self.assertIsNone(report["effective"])
        self.assertIn("4 samples", report["reason"])


if __name__ == "__main__":
    unittest.main()
