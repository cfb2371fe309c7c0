"""A character-level GPT that is trained in several processes with DistributedDataParallel.

The text is generated when the script starts: words drawn from a small random grammar.

    torchrun --nproc-per-node 2 gpt_ddp.py                    # 2 epochs
    torchrun --nproc-per-node 2 gpt_ddp.py --epochs 4 --resume
"""

import argparse
import contextlib
import math
import os
import random
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

parser = argparse.ArgumentParser(description="Train a character-level GPT in several processes.")
parser.add_argument("--epochs", type=int, default=2, help="passes over the text (default: %(default)s)")
parser.add_argument("--characters", type=int, default=100_000, help="length of the text (default: %(default)s)")
parser.add_argument("--batch-size", type=int, default=8, help="sequences of a process at a time (default: %(default)s)")
parser.add_argument("--accumulation-steps", type=int, default=2, help="batches in a step (default: %(default)s)")
parser.add_argument("--block-size", type=int, default=64, help="characters in a sequence (default: %(default)s)")
parser.add_argument("--n-layer", type=int, default=8, help="transformer blocks (default: %(default)s)")
parser.add_argument("--n-head", type=int, default=8, help="attention heads (default: %(default)s)")
parser.add_argument("--n-embd", type=int, default=512, help="width of the model (default: %(default)s)")
parser.add_argument("--dropout", type=float, default=0.0, help="dropout probability (default: %(default)s)")
parser.add_argument("--lr", type=float, default=3e-4, help="highest learning rate (default: %(default)s)")
parser.add_argument("--log-every", type=int, default=10, help="steps between log lines (default: %(default)s)")
parser.add_argument("--out-dir", default="out-gpt-ddp", help="where the checkpoint goes (default: %(default)s)")
parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
parser.add_argument("--seed", type=int, default=1337, help="random seed (default: %(default)s)")
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def make_text(characters, seed):
    """Sentences of made-up words; which words may follow a word is drawn once."""
    rng = random.Random(seed)
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(400)]
    followers = [rng.sample(range(len(words)), 8) for _ in words]
    pieces, length, word = [], 0, 0
    while length < characters:
        sentence = []
        for _ in range(rng.randint(4, 12)):
            word = rng.choice(followers[word])
            sentence.append(words[word])
        line = " ".join(sentence).capitalize() + ".\n"
        pieces.append(line)
        length += len(line)
    return "".join(pieces)


class Sequences(Dataset):
    """Pieces of a text, and what comes one character later."""

    def __init__(self, data, block_size):
        self.data = data
        self.block_size = block_size

    def __len__(self):
        return (len(self.data) - 1) // self.block_size

    def __getitem__(self, index):
        start = index * self.block_size
        piece = self.data[start : start + self.block_size + 1]
        return piece[:-1], piece[1:]


class GPT(nn.Module):
    def __init__(self, args, vocab_size):
        super().__init__()
        self.wte = nn.Embedding(vocab_size, args.n_embd)
        self.wpe = nn.Embedding(args.block_size, args.n_embd)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                args.n_embd, args.n_head, 4 * args.n_embd, args.dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(args.n_layer)
        )
        self.ln_f = nn.LayerNorm(args.n_embd)
        self.lm_head = nn.Linear(args.n_embd, vocab_size, bias=False)
        self.apply(self._init_weights)
        self.lm_head.weight = self.wte.weight

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, mean=0.0, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, idx):
        T = idx.size(1)
        mask = nn.Transformer.generate_square_subsequent_mask(T, device=idx.device)
        x = self.wte(idx) + self.wpe(torch.arange(T, device=idx.device))
        for block in self.blocks:
            x = block(x, src_mask=mask, is_causal=True)
        return self.lm_head(self.ln_f(x))


def loss_of(logits, targets):
    return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))


@torch.no_grad()
def evaluate(model, loader, device):
    """The mean loss over the batches of all processes."""
    model.eval()
    total = torch.zeros(2, device=device)
    for x, y in loader:
        total += torch.stack([loss_of(model(x.to(device)), y.to(device)), total.new_ones(())])
    dist.all_reduce(total)
    model.train()
    return (total[0] / total[1]).item()


def main():
    args = parser.parse_args()
    dist.init_process_group("nccl" if args.device == "cuda" else "gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()
    device = torch.device(args.device)
    if args.device == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    torch.manual_seed(args.seed)

    text = make_text(args.characters, args.seed)
    alphabet = sorted(set(text))
    code = {character: i for i, character in enumerate(alphabet)}
    data = torch.tensor([code[character] for character in text], dtype=torch.long)
    n = int(0.95 * len(data))
    train_set, val_set = Sequences(data[:n], args.block_size), Sequences(data[n:], args.block_size)
    sampler = DistributedSampler(train_set, world_size, rank, shuffle=True, seed=args.seed)
    train_loader = DataLoader(train_set, args.batch_size, sampler=sampler, drop_last=True)
    val_sampler = DistributedSampler(val_set, world_size, rank, shuffle=False)
    val_loader = DataLoader(val_set, args.batch_size, sampler=val_sampler)

    model = DDP(GPT(args, len(alphabet)).to(device), device_ids=[device.index] if args.device == "cuda" else None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.95), weight_decay=0.1)
    steps_per_epoch = math.ceil(len(train_loader) / args.accumulation_steps)
    steps = args.epochs * steps_per_epoch

    def learning_rate(step):
        warmup = min(20, max(1, steps // 10))
        if step < warmup:
            return args.lr * (step + 1) / warmup
        progress = (step - warmup) / max(1, steps - warmup)
        return args.lr * (0.1 + 0.45 * (1.0 + math.cos(math.pi * progress)))

    path = os.path.join(args.out_dir, "ckpt.pt")

    def save(epoch):
        os.makedirs(args.out_dir, exist_ok=True)
        checkpoint = {
            "model": model.module.state_dict(),
            "optimizer": optimizer.state_dict(),
            "epoch": epoch,
            "args": vars(args),
        }
        torch.save(checkpoint, path)

    first_epoch = 0
    if args.resume:
        checkpoint = torch.load(path, map_location=device)
        model.module.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        first_epoch = checkpoint["epoch"]
    if rank == 0:
        parameters = sum(p.numel() for p in model.parameters())
        print(f"{parameters:,} parameters in each of {world_size} processes; {args.device}", flush=True)
        if args.resume:
            print(f"goes on after epoch {first_epoch}", flush=True)

    step = first_epoch * steps_per_epoch
    for epoch in range(first_epoch, args.epochs):
        sampler.set_epoch(epoch)
        began, done = time.time(), 0
        for i, (x, y) in enumerate(train_loader, 1):
            # Gradients are exchanged with the last batch of a step.
            is_last = i % args.accumulation_steps == 0 or i == len(train_loader)
            with contextlib.nullcontext() if is_last else model.no_sync():
                loss = loss_of(model(x.to(device)), y.to(device))
                (loss / args.accumulation_steps).backward()
            if not is_last:
                continue
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step, done = step + 1, done + 1
            if rank == 0 and step % args.log_every == 0:
                elapsed = time.time() - began
                print(f"step {step}: loss {loss.item():.4f}, {elapsed / done:.2f} s/step", flush=True)

        val_loss = evaluate(model, val_loader, device)
        if rank == 0:
            print(f"epoch {epoch + 1}: val loss {val_loss:.4f}", flush=True)
            save(epoch + 1)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
