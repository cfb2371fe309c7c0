"""Small models as people write them."""

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, width, heads, length, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )
        self.register_buffer("mask", torch.tril(torch.ones(length, length)).bool())

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (
            y.view(b, t, self.heads, -1).transpose(1, 2) for y in self.attn(self.ln1(x)).split(c, dim=2)
        )
        a = (q @ k.transpose(-2, -1)) * (c // self.heads) ** -0.5
        a = a.masked_fill(~self.mask[:t, :t], float("-inf")).softmax(-1)
        a = F.dropout(a, self.dropout, self.training)
        x = x + self.proj((a @ v).transpose(1, 2).reshape(b, t, c))
        return x + self.mlp(self.ln2(x))


class GPT(nn.Module):
    """`returns`: `both` (logits, loss), `loss`, or `logits`."""

    def __init__(
        self, returns="both", *, layers=4, width=32, length=16, vocabulary=50, dropout=0.0, ignore=-1
    ):
        super().__init__()
        self.returns, self.ignore = returns, ignore
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(vocabulary, width),
                "wpe": nn.Embedding(length, width),
                "h": nn.ModuleList(Block(width, 4, length, dropout) for _ in range(layers)),
                "ln": nn.LayerNorm(width),
            }
        )
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.transformer["wte"].weight

    def forward(self, idx, targets=None):
        t = idx.shape[1]
        x = self.transformer["wte"](idx) + self.transformer["wpe"](torch.arange(t))
        for block in self.transformer["h"]:
            x = block(x)
        logits = self.head(self.transformer["ln"](x))
        if self.returns == "logits":
            return logits
        loss = None
        if targets is not None:
            loss = F.cross_entropy(
                logits.view(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=self.ignore
            )
        return loss if self.returns == "loss" else (logits, loss)


class ResBlock(nn.Module):
    def __init__(self, width, norm=True):
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.n1 = nn.BatchNorm2d(width) if norm else nn.GroupNorm(2, width)
        self.n2 = nn.BatchNorm2d(width) if norm else nn.GroupNorm(2, width)

    def forward(self, x):
        return F.relu(x + self.n2(self.c2(F.relu(self.n1(self.c1(x))))))


class CNN(nn.Module):
    def __init__(self, norm=True, classes=5, width=8):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResBlock(width, norm) for _ in range(4)))
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def tokens(steps, batch=8, length=16, vocabulary=50, seed=1):
    g = torch.Generator().manual_seed(seed)
    return [torch.randint(0, vocabulary, (batch, length + 1), generator=g) for _ in range(steps)]


def images(steps, batch=8, classes=5, seed=1):
    g = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(batch, 3, 8, 8, generator=g), torch.randint(0, classes, (batch,), generator=g))
        for _ in range(steps)
    ]
