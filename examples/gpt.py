"""A character-level GPT on a made-up language.

The text is generated when the script starts: words drawn from a small random grammar.  A few hundred steps are
enough to watch the model learn to spell.

    python gpt.py                      # 300 steps
    python gpt.py --steps 50 --batch-size 16
"""

import argparse
import math
import os
import random
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

parser = argparse.ArgumentParser(description="Train a character-level GPT.")
parser.add_argument("--steps", type=int, default=300, help="optimizer steps (default: %(default)s)")
parser.add_argument("--batch-size", type=int, default=128, help="sequences in a step (default: %(default)s)")
parser.add_argument("--block-size", type=int, default=128, help="characters in a sequence (default: %(default)s)")
parser.add_argument("--n-layer", type=int, default=8, help="transformer blocks (default: %(default)s)")
parser.add_argument("--n-head", type=int, default=2, help="attention heads (default: %(default)s)")
parser.add_argument("--n-embd", type=int, default=64, help="width of the model (default: %(default)s)")
parser.add_argument("--dropout", type=float, default=0.0, help="dropout probability (default: %(default)s)")
parser.add_argument("--lr", type=float, default=3e-3, help="highest learning rate (default: %(default)s)")
parser.add_argument("--eval-every", type=int, default=100, help="steps between evaluations (default: %(default)s)")
parser.add_argument("--eval-iters", type=int, default=4, help="batches in an evaluation (default: %(default)s)")
parser.add_argument("--log-every", type=int, default=10, help="steps between log lines (default: %(default)s)")
parser.add_argument("--out-dir", default="out-gpt", help="where the checkpoint goes (default: %(default)s)")
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


class CausalSelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.n_head = config.n_head
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.dropout = config.dropout
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        B, T, C = x.size()
        q, k, v = self.c_attn(x).split(C, dim=2)
        q = q.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        k = k.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        v = v.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        y = y.transpose(1, 2).contiguous().view(B, T, C)
        return self.resid_dropout(self.c_proj(y))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x))))


class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    def __init__(self, config, vocab_size):
        super().__init__()
        self.transformer = nn.ModuleDict(
            dict(
                wte=nn.Embedding(vocab_size, config.n_embd),
                wpe=nn.Embedding(config.block_size, config.n_embd),
                drop=nn.Dropout(config.dropout),
                h=nn.ModuleList([Block(config) for _ in range(config.n_layer)]),
                ln_f=nn.LayerNorm(config.n_embd),
            )
        )
        self.lm_head = nn.Linear(config.n_embd, vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight
        self.apply(self._init_weights)

    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, mean=0.0, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, idx, targets=None):
        _, T = idx.size()
        positions = torch.arange(T, device=idx.device)
        x = self.transformer.drop(self.transformer.wte(idx) + self.transformer.wpe(positions))
        for block in self.transformer.h:
            x = block(x)
        logits = self.lm_head(self.transformer.ln_f(x))
        loss = None
        if targets is not None:
            loss = F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))
        return logits, loss

    @torch.no_grad()
    def generate(self, idx, count, block_size):
        for _ in range(count):
            logits, _ = self(idx[:, -block_size:])
            probs = F.softmax(logits[:, -1, :], dim=-1)
            idx = torch.cat((idx, torch.multinomial(probs, num_samples=1)), dim=1)
        return idx


def main():
    args = parser.parse_args()
    torch.manual_seed(args.seed)

    text = make_text(600_000, args.seed)
    alphabet = sorted(set(text))
    code = {character: i for i, character in enumerate(alphabet)}
    data = torch.tensor([code[character] for character in text], dtype=torch.long)
    n = int(0.9 * len(data))
    splits = {"train": data[:n], "val": data[n:]}

    def get_batch(split):
        source = splits[split]
        starts = torch.randint(len(source) - args.block_size - 1, (args.batch_size,))
        x = torch.stack([source[i : i + args.block_size] for i in starts])
        y = torch.stack([source[i + 1 : i + 1 + args.block_size] for i in starts])
        return x.to(args.device), y.to(args.device)

    model = GPT(args, len(alphabet)).to(args.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.95), weight_decay=0.1)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{len(data):,} characters, {len(alphabet)} different; {parameters:,} parameters; {args.device}", flush=True)

    @torch.no_grad()
    def estimate_loss():
        model.eval()
        means = {}
        for split in ("train", "val"):
            losses = [model(*get_batch(split))[1].item() for _ in range(args.eval_iters)]
            means[split] = sum(losses) / len(losses)
        model.train()
        return means

    def learning_rate(step):
        warmup = min(20, max(1, args.steps // 10))
        if step < warmup:
            return args.lr * (step + 1) / warmup
        progress = (step - warmup) / max(1, args.steps - warmup)
        return args.lr * (0.1 + 0.45 * (1.0 + math.cos(math.pi * progress)))

    def save():
        os.makedirs(args.out_dir, exist_ok=True)
        checkpoint = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "args": vars(args)}
        torch.save(checkpoint, os.path.join(args.out_dir, "ckpt.pt"))

    began = time.time()
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        x, y = get_batch("train")
        logits, loss = model(x, y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

        if step % args.log_every == 0:
            elapsed = time.time() - began
            print(f"step {step}: loss {loss.item():.4f}, {elapsed / (step + 1):.2f} s/step", flush=True)
        if (step + 1) % args.eval_every == 0 or step + 1 == args.steps:
            losses = estimate_loss()
            print(f"step {step + 1}: train loss {losses['train']:.4f}, val loss {losses['val']:.4f}", flush=True)
            save()

    model.eval()
    start = torch.tensor([[code["\n"]]], device=args.device)
    sample = model.generate(start, 80, args.block_size)[0].tolist()
    print("sample:", "".join(alphabet[i] for i in sample).strip(), flush=True)


if __name__ == "__main__":
    main()
