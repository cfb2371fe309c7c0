"""Hugging Face's Trainer, with a model and data made on the spot."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

torch.manual_seed(0)
tokens = torch.randint(0, 50, (96, 12))
data = [{"input_ids": row, "labels": row} for row in tokens]
shape = GPT2Config(
    vocab_size=50, n_positions=16, n_embd=16, n_layer=3, n_head=2,
    resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
)  # fmt: skip
model = GPT2LMHeadModel(shape)
arguments = TrainingArguments(
    output_dir="out",
    per_device_train_batch_size=8,
    num_train_epochs=1,
    learning_rate=0.01,
    use_cpu=True,
    save_strategy="no",
    report_to=[],
    disable_tqdm=True,
)
Trainer(model=model, args=arguments, train_dataset=data).train()
