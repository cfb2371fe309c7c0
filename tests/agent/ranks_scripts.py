"""Models, data and a training loop for the tests of several ranks."""

import copy

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import swa_utils
from torch.utils.data import DataLoader, TensorDataset


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(x)))


class Blocks(nn.Module):
    """Returns logits; the script computes the loss."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.stem = nn.Linear(8, 16)
        self.blocks = nn.ModuleList(Block(16) for _ in range(3))
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.drop(x))


class Dropping(Blocks):
    def __init__(self):
        super().__init__(0.3)


class Language(nn.Module):
    """Tied weights; returns logits and a loss over the labels that count."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 16)
        self.blocks = nn.ModuleList(Block(16) for _ in range(2))
        self.head = nn.Linear(16, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens, labels=None):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        logits = self.head(x)
        if labels is None:
            return logits
        return logits, F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)


class Unused(Blocks):
    """A part that only some samples reach, and one that none does."""

    def __init__(self):
        super().__init__()
        self.rare, self.never = nn.Linear(16, 16), nn.Linear(3, 3)

    def forward(self, x):
        h = self.stem(x)
        if bool((x[:, 0] > 1.2).any()):
            h = h + self.rare(h) * (x[:, :1] > 1.2)
        return self.head(h)


class Masks(nn.Module):
    """Its output shows the masks that dropout has drawn, and its gradient those that were drawn again."""

    def __init__(self):
        super().__init__()
        self.weight, self.drop = nn.Parameter(torch.ones(64)), nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(x * self.weight)


def pictures(count, workers=0, batch=6):
    torch.manual_seed(3)
    data = TensorDataset(torch.randn(count, 8), torch.randint(0, 5, (count,)))
    return DataLoader(data, batch_size=batch, shuffle=True, num_workers=workers)


def sentences(count, batch=6):
    torch.manual_seed(4)
    tokens = torch.randint(0, 11, (count, 7))
    labels = tokens.roll(-1, 1)
    labels[torch.rand(count, 7) < torch.rand(count, 1)] = -100
    return DataLoader(TensorDataset(tokens, labels), batch_size=batch, shuffle=True)


def classify(model, x, y):
    return F.cross_entropy(model(x), y)


def contrast(model, x, _y):
    """In-batch negatives: a loss that only the whole batch has."""
    z = F.normalize(model(x), dim=1)
    return F.cross_entropy(z @ z.T / 0.1, torch.arange(len(z)).roll(1))


def language(model, tokens, labels):
    return model(tokens, labels)[1]


def looks_at_logits(model, tokens, labels):
    """Uses an output beside the loss, with a gradient through it."""
    logits, loss = model(tokens, labels)
    return loss + 0.01 * logits.square().mean()


class Average:
    """An average of the weights, in one of the ways in which scripts keep it."""

    def __init__(self, model, how):
        self.how, self.updates, self.model = how, 0, None
        if how == "swa":
            self.model = swa_utils.AveragedModel(model)
        elif how == "ema":
            self.model = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.8))
        elif how != "late":
            self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model):
        self.updates += 1
        if self.model is None:
            if self.updates == 3:
                self.model = copy.deepcopy(model)
        elif self.how in ("swa", "ema"):
            self.model.update_parameters(model)
        elif self.how == "state_dict":
            for mine, theirs in zip(self.model.state_dict().values(), model.state_dict().values()):
                mine.copy_(0.8 * mine + 0.2 * theirs)
        elif self.how == "mul_":
            for mine, theirs in zip(self.model.parameters(), model.parameters()):
                mine.mul_(0.8).add_(theirs.data, alpha=0.2)
        else:
            for mine, theirs in zip(self.model.parameters(), model.parameters()):
                mine.lerp_(theirs, 0.2)


def train(make, loader, loss_of, accumulate=1, clip=None, early=False, kept=False, resume=None, again=False,
          average=None, seed=None):  # fmt: skip
    """What a script of two epochs at most does: its losses, norms, and what it saves at the end."""
    torch.manual_seed(1)
    model = make()
    held = list(model.parameters()) if kept else None
    averaged = Average(model, average) if average else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    if resume is not None:
        model.load_state_dict(resume["model"])
        optimizer.load_state_dict(copy.deepcopy(resume["optimizer"]))
    if seed is not None:
        torch.manual_seed(seed)
    losses, norms, step = [], [], 0
    for epoch in range(2):
        if again and epoch:
            model.load_state_dict({name: 0.9 * value for name, value in model.state_dict().items()})
            optimizer.load_state_dict(optimizer.state_dict())
        for x, y in loader:
            loss = loss_of(model, x, y) / accumulate
            losses.append(loss.item())
            loss.backward()
            step += 1
            if step % accumulate:
                continue
            if clip:
                norms.append(float(nn.utils.clip_grad_norm_(held or model.parameters(), clip)))
            optimizer.step()
            optimizer.zero_grad()
            if averaged is not None:
                averaged.update(model)
    steps, result = len(losses), {}
    for one in (model, averaged.model) if averaged is not None else (model,):
        one.eval()
        with torch.no_grad():
            losses.append(loss_of(one, *next(iter(loader))).item())
    if averaged is not None:
        averaged.update(model)  # after an evaluation
        result["average"] = averaged.model.state_dict()
    result.update(losses=losses, norms=norms, steps=steps)
    return {**result, "model": model.state_dict(), "optimizer": optimizer.state_dict()}


def plain_average(make, how):
    """What a checkpoint of `Average` is loaded into."""
    return swa_utils.AveragedModel(make()) if how in ("swa", "ema") else make()


def moments(state):
    return {
        f"{i}.{name}": value
        for i, values in state["state"].items()
        for name, value in values.items()
        if isinstance(value, torch.Tensor)
    }
