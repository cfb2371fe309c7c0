"""gpt.py's training as a LightningModule: python gpt_lightning.py power|binsearch."""

import sys

import lightning
import torch
from gpt import GPT, make_text, parser
from lightning.pytorch.tuner import Tuner
from torch.utils.data import DataLoader, Dataset


class Windows(Dataset):
    def __init__(self, data, size):
        self.data, self.size = data, size

    def __len__(self):
        return len(self.data) - self.size - 1

    def __getitem__(self, i):
        return self.data[i : i + self.size], self.data[i + 1 : i + 1 + self.size]


class Training(lightning.LightningModule):
    def __init__(self, args):
        super().__init__()
        text = make_text(600_000, args.seed)
        code = {character: i for i, character in enumerate(sorted(set(text)))}
        data = torch.tensor([code[character] for character in text])
        self.windows = Windows(data[: int(0.9 * len(data))], args.block_size)
        self.model = GPT(args, len(code))
        self.lr, self.batch_size = args.lr, args.batch_size

    def train_dataloader(self):
        return DataLoader(self.windows, self.batch_size, shuffle=True)

    def training_step(self, batch):
        return self.model(*batch)[1]

    def configure_optimizers(self):
        return torch.optim.AdamW(self.model.parameters(), lr=self.lr, betas=(0.9, 0.95), weight_decay=0.1)


training = Training(parser.parse_args([]))
trainer = lightning.Trainer(accelerator="cpu", max_epochs=1, gradient_clip_val=1.0, logger=False)
Tuner(trainer).scale_batch_size(training, mode=sys.argv[1])
print("batch size", training.batch_size)
