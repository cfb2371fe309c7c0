"""A residual network of convolutions and BatchNorm, whose gradients are filled with zeros."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.act = nn.ReLU()

    def forward(self, x):
        return x + self.act(self.norm(self.conv(x)))


class ConvNet(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.inlet, self.outlet = nn.Conv2d(3, width, 3, padding=1), nn.Linear(width, 4)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(3)))

    def forward(self, x):
        return self.outlet(self.blocks(self.inlet(x)).mean(dim=(2, 3)))


inputs, labels = torch.randn(96, 3, 8, 8), torch.randint(0, 4, (96,))
loader = DataLoader(TensorDataset(inputs, labels), batch_size=8)
model = ConvNet()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
for x, y in loader:
    optimizer.zero_grad(set_to_none=False)
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
