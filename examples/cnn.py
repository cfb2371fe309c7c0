"""A small convolutional network with BatchNorm on made-up pictures.

Each picture shows one of ten shapes at a random place, size and brightness.  The pictures are drawn, and randomly
shifted and flipped, when a sample is asked for, so loading costs processor time.

    python cnn.py
    python cnn.py --epochs 1 --batch-size 32 --num-workers 2
"""

import argparse
import os
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset


class Shapes(Dataset):
    """Ten shapes on a noisy background; sample `i` is always the same, but for its augmentation."""

    def __init__(self, samples, size, augment, seed):
        self.samples = samples
        self.size = size
        self.augment = augment
        self.seed = seed
        axis = torch.linspace(-1.0, 1.0, size)
        self.y, self.x = torch.meshgrid(axis, axis, indexing="ij")

    def __len__(self):
        return self.samples

    def draw(self, label, g):
        cx, cy = (torch.rand(2, generator=g) * 0.6 - 0.3).tolist()
        r = 0.35 + 0.25 * torch.rand((), generator=g).item()
        x, y = (self.x - cx) / r, (self.y - cy) / r
        radius, angle = torch.sqrt(x * x + y * y), torch.atan2(y, x)
        shapes = (
            lambda: radius < 1,
            lambda: (radius < 1) & (radius > 0.6),
            lambda: (x.abs() < 0.8) & (y.abs() < 0.8),
            lambda: torch.maximum(x.abs(), y.abs()).sub(0.75).abs() < 0.2,
            lambda: (x.abs() + y.abs()) < 1,
            lambda: (x.abs() < 0.25) | (y.abs() < 0.25),
            lambda: ((x - y).abs() < 0.35) | ((x + y).abs() < 0.35),
            lambda: radius < 0.6 + 0.4 * torch.cos(5 * angle),
            lambda: (y > -0.7) & (y < 0.9 - 2 * x.abs()),
            lambda: (torch.sin(9 * x) > 0) & (radius < 1),
        )
        return shapes[label]().float()

    def __getitem__(self, index):
        g = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        label = index % 10
        colour = 0.4 + 0.6 * torch.rand(3, 1, 1, generator=g)
        image = self.draw(label, g) * colour + 0.35 * torch.randn(3, self.size, self.size, generator=g)
        # A slight blur, as a camera would.
        image = F.avg_pool2d(image[None], 3, stride=1, padding=1)[0]
        if self.augment:
            if torch.rand(()) < 0.5:
                image = image.flip(2)
            dx, dy = torch.randint(-3, 4, (2,)).tolist()
            image = torch.roll(image, (dy, dx), (1, 2))
        return image, label


class ConvBlock(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.max_pool2d(x, 2)


class CNN(nn.Module):
    def __init__(self, width=16, classes=10):
        super().__init__()
        self.features = nn.Sequential(ConvBlock(3, width), ConvBlock(width, 2 * width), ConvBlock(2 * width, 4 * width))
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x):
        return self.head(self.features(x).mean(dim=(2, 3)))


def train(model, loader, optimizer, scheduler, device, log_every, max_steps):
    model.train()
    began, seen = time.time(), 0
    for step, (images, labels) in enumerate(loader):
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        scheduler.step()
        seen += len(labels)
        if step % log_every == 0:
            rate = seen / (time.time() - began)
            print(f"  batch {step}/{len(loader)}: loss {loss.item():.4f}, {rate:.0f} pictures/s", flush=True)
        if max_steps and step + 1 >= max_steps:
            break


@torch.no_grad()
def evaluate(model, loader, device):
    model.eval()
    correct, total, loss = 0, 0, 0.0
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        logits = model(images)
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        correct += (logits.argmax(1) == labels).sum().item()
        total += len(labels)
    return loss / total, correct / total


def main():
    parser = argparse.ArgumentParser(description="Train a CNN on made-up pictures.")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=0, help="batches in an epoch at most; 0: all of them")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--num-workers", type=int, default=0)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--width", type=int, default=16, help="channels of the first block")
    parser.add_argument("--train-samples", type=int, default=6000)
    parser.add_argument("--val-samples", type=int, default=1000)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--log-every", type=int, default=10)
    parser.add_argument("--checkpoint", default="cnn-best.pt")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.manual_seed(args.seed)

    train_set = Shapes(args.train_samples, args.image_size, augment=True, seed=1)
    val_set = Shapes(args.val_samples, args.image_size, augment=False, seed=2)
    train_loader = DataLoader(train_set, args.batch_size, shuffle=True, num_workers=args.num_workers, drop_last=True)
    val_loader = DataLoader(val_set, args.batch_size, num_workers=args.num_workers)

    model = CNN(args.width).to(args.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = max(1, args.epochs * len(train_loader))
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=args.lr, total_steps=steps)

    best = 0.0
    for epoch in range(args.epochs):
        print(f"epoch {epoch + 1}/{args.epochs}", flush=True)
        train(model, train_loader, optimizer, scheduler, args.device, args.log_every, args.steps)
        loss, accuracy = evaluate(model, val_loader, args.device)
        print(f"  validation: loss {loss:.4f}, accuracy {accuracy:.1%}", flush=True)
        if accuracy > best:
            best = accuracy
            folder = os.path.dirname(args.checkpoint)
            if folder:
                os.makedirs(folder, exist_ok=True)
            torch.save({"model": model.state_dict(), "epoch": epoch, "accuracy": accuracy}, args.checkpoint)
            print(f"  saved {args.checkpoint}", flush=True)


if __name__ == "__main__":
    main()
