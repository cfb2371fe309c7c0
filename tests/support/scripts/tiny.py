# A training script that is over quickly: a few residual blocks, a DataLoader, evaluation and a checkpoint.
import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=1)
parser.add_argument("--batch-size", type=int, default=32)
parser.add_argument("--samples", type=int, default=4096)
parser.add_argument("--width", type=int, default=64)
parser.add_argument("--checkpoint", default="tiny.pt")


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.blocks = nn.Sequential(*(Block(width) for _ in range(4)))
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        return self.head(self.blocks(x))


def main():
    args = parser.parse_args()
    torch.manual_seed(0)
    x = torch.randn(args.samples, args.width)
    y = (x.sum(1) > 0).long()
    loader = DataLoader(TensorDataset(x, y), args.batch_size, shuffle=True)
    model = Net(args.width)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for epoch in range(args.epochs):
        model.train()
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            right = (model(x[:512]).argmax(1) == y[:512]).float().mean().item()
        print(f"epoch {epoch}: loss {loss.item():.4f}, accuracy {right:.3f}", flush=True)
        torch.save(model.state_dict(), args.checkpoint)


if __name__ == "__main__":
    main()
