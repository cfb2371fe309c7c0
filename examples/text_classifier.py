"""A transformer encoder that classifies made-up texts of very different lengths.

Each of the eight classes prefers some words.  A batch is padded to its longest text, so batches differ in size.

    python text_classifier.py
    python text_classifier.py --epochs 1 --batch-size 16
"""

import argparse
import os
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

PAD = 0


class Texts(Dataset):
    """Word numbers from 1 up; lengths follow a long-tailed distribution, as real texts do."""

    def __init__(self, samples, vocab, classes, longest, topics, seed):
        g = torch.Generator().manual_seed(seed)
        lengths = torch.exp(torch.randn(samples, generator=g) * 0.7 + 3.3).long().clamp(8, longest)
        self.labels = torch.randint(classes, (samples,), generator=g)
        self.texts = []
        for length, label in zip(lengths.tolist(), self.labels.tolist()):
            words = torch.randint(1, vocab, (length,), generator=g)
            # About one word in six comes from the class's own list.
            own = topics[label][torch.randint(topics.size(1), (length,), generator=g)]
            mark = torch.rand(length, generator=g) < 0.17
            self.texts.append(torch.where(mark, own, words))

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, index):
        return self.texts[index], self.labels[index]


def collate(batch):
    """Pads to the longest text of the batch."""
    texts, labels = zip(*batch)
    longest = max(len(text) for text in texts)
    padded = torch.full((len(texts), longest), PAD)
    for row, text in enumerate(texts):
        padded[row, : len(text)] = text
    return padded, torch.stack(labels)


class TextClassifier(nn.Module):
    def __init__(self, vocab, classes, longest, width, layers, heads, dropout):
        super().__init__()
        self.words = nn.Embedding(vocab, width, padding_idx=PAD)
        self.positions = nn.Embedding(longest, width)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, texts):
        padding = texts == PAD
        positions = torch.arange(texts.size(1), device=texts.device)
        x = self.encoder(self.words(texts) + self.positions(positions), src_key_padding_mask=padding)
        keep = (~padding).unsqueeze(-1).to(x.dtype)
        mean = (self.norm(x) * keep).sum(1) / keep.sum(1)
        return self.head(mean)


def main():
    parser = argparse.ArgumentParser(description="Train a text classifier.")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=0, help="batches in an epoch at most; 0: all of them")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--num-workers", type=int, default=0)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--vocab", type=int, default=4000)
    parser.add_argument("--longest", type=int, default=192, help="words of the longest text")
    parser.add_argument("--train-samples", type=int, default=4800)
    parser.add_argument("--val-samples", type=int, default=800)
    parser.add_argument("--log-every", type=int, default=10)
    parser.add_argument("--checkpoint", default="text-classifier.pt")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.manual_seed(args.seed)

    classes = 8
    topics = torch.randint(1, args.vocab, (classes, 60), generator=torch.Generator().manual_seed(99))
    train_set = Texts(args.train_samples, args.vocab, classes, args.longest, topics, seed=1)
    val_set = Texts(args.val_samples, args.vocab, classes, args.longest, topics, seed=2)
    common = dict(batch_size=args.batch_size, collate_fn=collate, num_workers=args.num_workers)
    train_loader = DataLoader(train_set, shuffle=True, **common)
    val_loader = DataLoader(val_set, **common)

    model = TextClassifier(args.vocab, classes, args.longest, args.width, args.layers, args.heads, args.dropout)
    model.to(args.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    steps = max(1, args.epochs * len(train_loader))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 20, 1 - step / steps))

    for epoch in range(args.epochs):
        model.train()
        began, seen = time.time(), 0
        for step, (texts, labels) in enumerate(train_loader):
            texts, labels = texts.to(args.device), labels.to(args.device)
            loss = F.cross_entropy(model(texts), labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            seen += len(labels)
            if step % args.log_every == 0:
                rate = seen / (time.time() - began)
                print(f"epoch {epoch + 1} batch {step}: loss {loss.item():.4f}, {rate:.0f} texts/s", flush=True)
            if args.steps and step + 1 >= args.steps:
                break

        model.eval()
        correct = 0
        with torch.no_grad():
            for texts, labels in val_loader:
                logits = model(texts.to(args.device))
                correct += (logits.argmax(1).cpu() == labels).sum().item()
        print(f"epoch {epoch + 1}: validation accuracy {correct / len(val_set):.1%}", flush=True)
        folder = os.path.dirname(args.checkpoint)
        if folder:
            os.makedirs(folder, exist_ok=True)
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, args.checkpoint)


if __name__ == "__main__":
    main()
