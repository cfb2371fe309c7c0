"""Scripts of Accelerate and of transformers' Trainer in several ranks, as they are and then sharded.

Prints what differs.  Called by test_frameworks_ranks.py with the number of ranks.
"""

import contextlib
import json
import os
import sys
import tempfile

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from lightning.fabric import Fabric
from models_frameworks import Text, Trainer, TrainingArguments, bert, gpt2
from ranks_fork import fork
from ranks_scripts import Blocks, classify, moments, pictures
from safetensors.torch import load_file
from support_knobs import agent
from torch import distributed
from torch.utils.data import DataLoader
from transformers import PrinterCallback


def shared_folder(stack):
    """The same new folder in all ranks, which is gone once they have all left `stack`."""
    found = [None]
    if distributed.get_rank() == 0:
        found = [stack.enter_context(tempfile.TemporaryDirectory())]
    distributed.broadcast_object_list(found, 0)
    stack.callback(distributed.barrier)
    return found[0]


def accelerated(folder, make=gpt2, **fields):
    """A loop around an Accelerator: clipping, accumulation, evaluation, and every way of saving."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, **fields)
    main = accelerator.is_main_process
    model = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 12)
    torch.manual_seed(5)
    loader, held_out = DataLoader(Text(44), 4, shuffle=True), DataLoader(Text(8), 4)
    model, optimizer, loader, held_out, schedule = accelerator.prepare(
        model, optimizer, loader, held_out, schedule
    )
    found = {"losses": [], "norms": []}
    for epoch in range(2):
        model.train()
        for batch in loader:
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    found["norms"].append(float(accelerator.clip_grad_norm_(model.parameters(), 0.5)))
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            found["losses"].append(accelerator.gather(loss.detach()[None]).mean().item())
        model.eval()
        with torch.no_grad():
            found["losses"] += [accelerator.gather(model(**b).loss[None]).mean().item() for b in held_out]
        if main:  # one rank by itself
            tokens = accelerator.unwrap_model(model).generate(batch["input_ids"][:1, :4], max_new_tokens=4)
            found["losses"] += tokens[0].tolist()
            accelerator.unwrap_model(model).save_pretrained(f"{folder}/alone")
            torch.save(optimizer.state_dict(), f"{folder}/optimizer.pt")
        if epoch == 0:
            accelerator.save_state(f"{folder}/state")
            accelerator.wait_for_everyone()
            accelerator.load_state(f"{folder}/state")
    accelerator.wait_for_everyone()
    accelerator.unwrap_model(model).save_pretrained(
        f"{folder}/all",
        is_main_process=main,
        save_function=accelerator.save,
        state_dict=accelerator.get_state_dict(model),
    )
    accelerator.save_model(model, f"{folder}/weights")
    return found


def trained(folder, make=gpt2, data=None, held_out=None, resume=False, **fields):
    """The Trainer: an evaluation and a checkpoint an epoch, the best of which it loads at the end."""
    fields = {
        "per_device_train_batch_size": 4,
        "num_train_epochs": 3,
        "learning_rate": 0.01,
        "weight_decay": 0.1,
        "max_grad_norm": 0.5,
        "warmup_steps": 3,
        "logging_steps": 1,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        **fields,
    }
    args = TrainingArguments(output_dir=f"{folder}/out", **fields)
    trainer = Trainer(
        model=make(), args=args, train_dataset=data or Text(44), eval_dataset=held_out or Text(10)
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model(f"{folder}/final")
    rows = trainer.state.log_history
    return {
        "losses": [row[k] for row in rows for k in ("loss", "eval_loss") if k in row]
        + [trainer.evaluate()["eval_loss"]],
        "norms": [float(row["grad_norm"]) for row in rows if "grad_norm" in row],
    }


def fabricated(folder):
    """A loop around Lightning's Fabric, which wraps its wrapper once more."""
    fabric = Fabric(accelerator="cpu", devices=distributed.get_world_size(), strategy="ddp")
    fabric.launch()
    torch.manual_seed(2)
    model = Blocks()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    model, optimizer = fabric.setup(model, optimizer)
    loader = fabric.setup_dataloaders(pictures(36, batch=3))
    found = {"losses": [], "norms": []}
    for epoch in range(2):
        model.train()
        for step, (x, y) in enumerate(loader):
            with fabric.no_backward_sync(model, enabled=step % 2 == 0):
                loss = classify(model, x, y)
                fabric.backward(loss)
            found["losses"].append(fabric.all_reduce(loss.detach()).item())
            if step % 2:
                found["norms"].append(float(fabric.clip_gradients(model, optimizer, max_norm=0.3)))
                optimizer.step()
                optimizer.zero_grad()
        state = {"model": model, "optimizer": optimizer}
        fabric.save(f"{folder}/fabric.ckpt", state)
        if epoch == 0:
            fabric.load(f"{folder}/fabric.ckpt", state)
        model.eval()
        with torch.no_grad():
            found["losses"].append(classify(model, *next(iter(loader))).item())
    return found


def read(folder):
    """All tensors in what was saved there, by the place where they lie."""
    found = {}
    for at, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(at, name)
            key = os.path.relpath(path, folder)
            if name.endswith(".safetensors"):
                found[key] = load_file(path)
            elif name == "fabric.ckpt":
                state = torch.load(path, weights_only=False)
                found[key] = {**state["model"], **moments(state["optimizer"])}
            elif name in ("optimizer.pt", "optimizer.bin"):
                found[key] = moments(torch.load(path, weights_only=False))
            elif name == "config.json":
                with open(path, encoding="utf-8") as file:
                    found[key] = json.load(file)["architectures"]
    return found


SMOOTHED = {"label_smoothing_factor": 0.1, "gradient_accumulation_steps": 2, "gradient_checkpointing": True}

CLASSES = {"make": bert, "data": Text(44, classes=3), "held_out": Text(10, classes=3)}
CASES = {
    "accelerate": (accelerated, {}),
    "accelerate, bf16": (accelerated, {"mixed_precision": "bf16"}),
    "trainer": (trained, {}),
    "trainer, smoothed labels in micro-batches, recomputed": (trained, SMOOTHED),
    "trainer, classes": (trained, CLASSES),
    "fabric": (fabricated, {}),
}
OFFLOADED = ("accelerate", "trainer, smoothed labels in micro-batches, recomputed")


def gap(one, other):
    assert len(one) == len(other), (one, other)
    return max((abs(a - b) / max(1.0, abs(a)) for a, b in zip(one, other)), default=0.0)


def tensor_gap(one, other):
    assert sorted(one) == sorted(other), (sorted(one), sorted(other))
    return max((float((one[n].double() - other[n].double()).abs().max()) for n in one), default=0.0)


def script(name, folder, **more):
    """One of them, in a process in which another one may have run before."""
    AcceleratorState._reset_state(False)
    GradientState._reset_state()
    torch.manual_seed(1)
    function, options = CASES[name]
    found = function(folder, **options, **more)
    distributed.barrier()
    return found


def compare(name, strategy):
    """What `strategy` came to, beside DistributedDataParallel."""
    with contextlib.ExitStack() as stack:
        return compare_in(name, strategy, shared_folder(stack), shared_folder(stack))


def compare_in(name, strategy, plain_folder, folder):
    plain = script(name, plain_folder)
    ranks = distributed.get_world_size()
    with agent({"strategy": strategy}, script_ranks=ranks) as tuned:
        found = script(name, folder)
        report, faults = tuned.knob("strategy"), tuned.of("fault")
        sharding = tuned.session.knobs.get("strategy").sharding
        held = sum(p._local_tensor.numel() for p in sharding.parameters()) if sharding is not None else None
        of = sum(p.numel() for p in sharding.parameters()) if sharding is not None else None
    theirs, ours = read(plain_folder), read(folder)
    pairs = {key: (theirs[key], ours[key]) for key in theirs if theirs.keys() == ours.keys()}
    classes = [pair for pair in pairs.values() if isinstance(pair[0], list)]
    return {
        "case": name,
        "strategy": strategy,
        "rank": distributed.get_rank(),
        "report": report,
        "faults": faults,
        "losses": gap(plain["losses"], found["losses"]),
        "norms": gap(plain["norms"], found["norms"]),
        "count": [len(found["losses"]), len(found["norms"])],
        "files": [sorted(theirs), sorted(ours)],
        "saved": {key: tensor_gap(*pair) for key, pair in pairs.items() if isinstance(pair[0], dict)},
        "classes": classes,
        "held": held,
        "of": of,
    }


def resume():
    """Each goes on from what the other one has saved, and comes to what the script as it is comes to."""
    name = "trainer"
    with contextlib.ExitStack() as stack:
        folders = [shared_folder(stack) for _ in range(4)]
        plain = script(name, folders[0])
        ranks = distributed.get_world_size()
        with agent({"strategy": "fsdp"}, script_ranks=ranks):
            script(name, folders[1])
        with agent({"strategy": "fsdp"}, script_ranks=ranks) as tuned:
            sharded = script(name, folders[2], resume=f"{folders[0]}/out/checkpoint-6")
            effective = tuned.knob("strategy")["effective"]
        again = script(name, folders[3], resume=f"{folders[1]}/out/checkpoint-6")
    gaps = {k: [gap(plain[k], other[k]) for other in (sharded, again)] for k in plain}
    return {"case": "resumed", "rank": distributed.get_rank(), "effective": effective, **gaps}


def run():
    torch.use_deterministic_algorithms(True)
    distributed.init_process_group("gloo")
    lines = [compare(name, "fsdp") for name in CASES]
    lines += [compare(name, "fsdp_offload") for name in OFFLOADED]
    lines += [compare("trainer", "ddp"), resume()]
    distributed.barrier()
    return lines


if __name__ == "__main__":
    print(json.dumps(fork(int(sys.argv[1]), run)))
