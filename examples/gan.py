"""A small GAN that learns to draw rings: two networks, two optimizers.

python gan.py
python gan.py --epochs 1 --batch-size 64
"""

import argparse
import os

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset


def make_rings(samples, size, seed):
    """Rings of random centre, radius and thickness, in [-1, 1]."""
    g = torch.Generator().manual_seed(seed)
    axis = torch.linspace(-1.0, 1.0, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    centre = torch.rand(samples, 2, 1, 1, generator=g) * 0.4 - 0.2
    radius = 0.35 + 0.3 * torch.rand(samples, 1, 1, generator=g)
    thickness = 0.08 + 0.08 * torch.rand(samples, 1, 1, generator=g)
    distance = torch.sqrt((x - centre[:, 0]) ** 2 + (y - centre[:, 1]) ** 2)
    return (2 * torch.exp(-(((distance - radius) / thickness) ** 2)) - 1).unsqueeze(1)


class Generator(nn.Module):
    def __init__(self, latent, width):
        super().__init__()
        self.net = nn.Sequential(
            nn.ConvTranspose2d(latent, 4 * width, 4, 1, 0, bias=False),
            nn.BatchNorm2d(4 * width),
            nn.ReLU(True),
            nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(True),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(True),
            nn.ConvTranspose2d(width, 1, 4, 2, 1),
            nn.Tanh(),
        )

    def forward(self, z):
        return self.net(z)


class Discriminator(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, width, 4, 2, 1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(2 * width, 4 * width, 4, 2, 1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(4 * width, 1, 4, 1, 0),
        )

    def forward(self, x):
        return self.net(x).view(-1)


def main():
    parser = argparse.ArgumentParser(description="Train a GAN on rings.")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0, help="batches in an epoch at most; 0: all of them")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--latent", type=int, default=32)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--train-samples", type=int, default=6400)
    parser.add_argument("--log-every", type=int, default=10)
    parser.add_argument("--out-dir", default="out-gan")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.manual_seed(args.seed)

    rings = make_rings(args.train_samples, 32, seed=1)
    loader = DataLoader(TensorDataset(rings), args.batch_size, shuffle=True, drop_last=True)
    generator = Generator(args.latent, args.width).to(args.device)
    discriminator = Discriminator(args.width).to(args.device)
    optimizer_g = torch.optim.Adam(generator.parameters(), lr=args.lr, betas=(0.5, 0.999))
    optimizer_d = torch.optim.Adam(discriminator.parameters(), lr=args.lr, betas=(0.5, 0.999))
    fixed = torch.randn(16, args.latent, 1, 1, device=args.device)

    for epoch in range(args.epochs):
        for step, (real,) in enumerate(loader):
            real = real.to(args.device)
            z = torch.randn(len(real), args.latent, 1, 1, device=args.device)

            # The discriminator learns to tell rings from what the generator draws.
            optimizer_d.zero_grad()
            fake = generator(z)
            on_real, on_fake = discriminator(real), discriminator(fake.detach())
            loss_d = F.binary_cross_entropy_with_logits(on_real, torch.ones_like(on_real))
            loss_d = loss_d + F.binary_cross_entropy_with_logits(on_fake, torch.zeros_like(on_fake))
            loss_d.backward()
            optimizer_d.step()

            # The generator learns to pass for real.
            optimizer_g.zero_grad()
            verdict = discriminator(fake)
            loss_g = F.binary_cross_entropy_with_logits(verdict, torch.ones_like(verdict))
            loss_g.backward()
            optimizer_g.step()

            if step % args.log_every == 0:
                print(f"epoch {epoch + 1} batch {step}: D {loss_d.item():.4f}, G {loss_g.item():.4f}", flush=True)
            if args.steps and step + 1 >= args.steps:
                break

        generator.eval()
        with torch.no_grad():
            pictures = generator(fixed)
        generator.train()
        # How far the drawn pictures are from the mean ring: falls as the generator learns where rings are.
        distance = (pictures.mean(0).cpu() - rings.mean(0)).abs().mean().item()
        print(f"epoch {epoch + 1}: distance to the mean picture {distance:.4f}", flush=True)
        os.makedirs(args.out_dir, exist_ok=True)
        state = {"generator": generator.state_dict(), "discriminator": discriminator.state_dict()}
        torch.save(state, os.path.join(args.out_dir, "gan.pt"))


if __name__ == "__main__":
    main()
