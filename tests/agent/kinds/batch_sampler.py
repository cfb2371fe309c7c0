"""A batch sampler of its own, with batches of different sizes."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


class Net(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.inlet, self.outlet = nn.Linear(8, width), nn.Linear(width, 4)
        self.blocks = nn.ModuleList(Block(width) for _ in range(3))

    def forward(self, x):
        x = self.inlet(x)
        for block in self.blocks:
            x = block(x)
        return self.outlet(x)


inputs, labels = torch.randn(96, 8), torch.randint(0, 4, (96,))
batches = [list(range(start, start + 6 + start % 4)) for start in range(0, 84, 7)]
loader = DataLoader(TensorDataset(inputs, labels), batch_sampler=batches)
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
for x, y in loader:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
