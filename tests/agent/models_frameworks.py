"""Tiny models of frameworks, made from their configurations, and data made on the spot."""

import contextlib
import os
import tempfile
import warnings

# Nothing is fetched, whatever a test forgets.
os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")

import torch
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
    logging,
)

logging.set_verbosity_error()
warnings.filterwarnings("ignore", category=FutureWarning)
VOCABULARY = 50


class Text(Dataset):
    """Rows of tokens with labels: the tokens, some rows padded, or a class."""

    def __init__(self, rows, length=12, classes=0, padded=False):
        g = torch.Generator().manual_seed(3)
        ids = torch.randint(0, VOCABULARY, (rows, length), generator=g)
        labels = torch.randint(0, classes, (rows,), generator=g) if classes else ids.clone()
        if padded:
            for row in range(rows):
                labels[row, length - row % (length - 3) :] = -100
        self.items = [{"input_ids": i, "labels": label} for i, label in zip(ids, labels)]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_positions=16, n_embd=16, n_layer=4, n_head=2,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip


def bert():
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=16, num_labels=3,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )
    )  # fmt: skip


@contextlib.contextmanager
def arguments(**changes):
    """TrainingArguments with clipping, weight decay and a schedule: 12 steps of 45 rows in batches of 16."""
    with tempfile.TemporaryDirectory() as folder:
        fields = {
            "per_device_train_batch_size": 16,
            "num_train_epochs": 4,
            "learning_rate": 0.01,
            "weight_decay": 0.1,
            "max_grad_norm": 0.5,
            "warmup_steps": 3,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
            "use_cpu": True,
        }
        fields.update(changes)
        yield TrainingArguments(output_dir=folder, **fields)


def train(model, data, args, change=None, cls=Trainer, **more):
    """Trains; the parameters afterwards and the logged losses."""
    trainer = cls(model=model, args=args, train_dataset=data, **more)
    trainer.remove_callback(_printer(trainer))
    if change is not None:
        change(trainer)
    trainer.train()
    losses = [torch.tensor(float(row["loss"])) for row in trainer.state.log_history if "loss" in row]
    return [p.detach().clone() for p in model.parameters()], losses


def _printer(trainer):
    from transformers import PrinterCallback

    return PrinterCallback
