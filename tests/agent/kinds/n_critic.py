"""Two models and optimizers; the critic steps three times as often."""

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
loader = DataLoader(TensorDataset(inputs, labels), batch_size=8)
generator, critic = Net(), nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
generate = torch.optim.RMSprop(generator.parameters(), lr=0.001)
criticise = torch.optim.RMSprop(critic.parameters(), lr=0.001)
for i, (x, _) in enumerate(loader):
    criticise.zero_grad()
    fake = generator(x).detach()
    (critic(fake).mean() - critic(x[:, :4]).mean()).backward()
    criticise.step()
    if i % 3 == 2:
        generate.zero_grad()
        (-critic(generator(x)).mean()).backward()
        generate.step()
