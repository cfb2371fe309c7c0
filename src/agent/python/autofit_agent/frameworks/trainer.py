"""Hugging Face's Trainer: knobs through `TrainingArguments`.

The arguments are changed in `Trainer.__init__`, so from the values in force there: those of the parser or the
code that made them, and whatever the script has changed since.  They are read back when training begins.

Accumulation goes through the Trainer only where the loss is shown to be a sum over the labels that is divided
by `num_items_in_batch`: then micro-batches add up to the whole batch, uneven last batches and padding
included.  A model may take `num_items_in_batch` and ignore it (BERT's classification): the Trainer then does
not divide either, and gradients become as many times too large as there are micro-batches.  Such a model's
batches are split by the agent instead.
"""

import inspect
import os
import sys

from .. import patches
from ..untouched import Untouched
from . import ranks
from .base import Known, watch_building

KNOWN = Known("transformers", (4, 46), (6, 0))
CLOSE = 1e-3  # relative difference of losses that rounding explains
LOADER = ("num_workers", "pin_memory", "prefetch_factor", "persistent_workers")
KNOBS = ("batch_size", "accumulation", "amp", "checkpoint", *LOADER)
# Methods that make batches or gradients: who replaces them may count on the script's own batch.
METHODS = (
    "training_step",
    "get_batch_samples",
    "get_train_dataloader",
    "_get_train_sampler",
    "_inner_training_loop",
)


def ready(frameworks, module):
    """`transformers.trainer` was imported."""
    watch = Watch(frameworks, module)
    watch_building(frameworks, module.Trainer, "Trainer", watch.before, watch.after)
    guard = frameworks.session.guard("Trainer step")

    def make(original):
        first = guard(watch.first_step)

        def training_step(trainer, model, inputs, *args, **kwargs):
            if watch.unseen(trainer):
                first(trainer, model, inputs)
            return original(trainer, model, inputs, *args, **kwargs)

        return training_step

    patches.replace(module.Trainer, "training_step", make)


class Watch:
    """Sets the switches of each Trainer that is built, and reads them back."""

    def __init__(self, frameworks, module):
        self.frameworks = frameworks
        self.module = module
        self.unknown = KNOWN.stands_against(_version())
        self.trainer = None  # the latest that was built
        self.stepped = None  # the one that has begun to train
        self.own = None  # what the script had set in the latest Trainer's arguments

    # Building.

    def before(self, trainer, arguments):
        frameworks = self.frameworks
        args = arguments.get("args")
        if args is None:
            if not frameworks.wants() and ranks.sharding(frameworks) is None:
                self.own = None  # the Trainer makes its own
                return
            args = arguments["args"] = self.module.TrainingArguments(output_dir="tmp_trainer")
        self.own = getattr(args, "_autofit_own", None) or own_values(args)
        if self.unknown is not None:
            for knob in KNOBS:
                frameworks.refuse(knob, self.unknown)
            return
        if hasattr(args, "_autofit_own"):
            return  # a second Trainer with arguments that are changed already
        args._autofit_own = self.own
        ranks.trainer(frameworks, args)
        for knob in KNOBS:
            wanted = frameworks.wanted(knob)
            if wanted is not None:
                why_not = self.set(knob, wanted, args, arguments.get("model"), trainer)
                if why_not is not None:
                    frameworks.refuse(knob, why_not)

    def set(self, knob, wanted, args, model, trainer):
        """Sets one switch; None, or why it cannot be set."""
        if knob in LOADER:
            return self.set_loader(knob, wanted, args)
        switch = self.switches(args, model, type(trainer))[knob]
        if switch.get("why_not") and not switch.get("agent"):
            return switch["why_not"]
        if knob == "batch_size":
            args.per_device_train_batch_size = wanted
        elif knob == "accumulation":
            if wanted != 1 and args.per_device_train_batch_size % wanted:
                return "a batch of %d is not a multiple of %d" % (args.per_device_train_batch_size, wanted)
            args.per_device_train_batch_size //= wanted
            args.gradient_accumulation_steps *= wanted
            self.frameworks.parts = wanted
            self.frameworks.own_accumulation = self.own["gradient_accumulation_steps"]
        elif knob == "amp":
            self.set_amp(wanted, args)
        elif knob == "checkpoint" and wanted not in ("none", "selective"):
            every = {"every_n_layers": 2} if wanted == "alternate" else {}
            for name in checkpointing_names(args):
                setattr(args, name, True)
                setattr(args, name + "_kwargs", {"use_reentrant": False, **every})
        return None

    def set_amp(self, wanted, args):
        args.bf16, args.fp16 = wanted == "bf16", wanted == "fp16"
        precision = "no" if wanted == "off" else wanted
        if hasattr(args, "mixed_precision"):
            args.mixed_precision = precision
        else:
            # Before transformers 5 the arguments leave it in the environment, where Accelerator finds it.
            os.environ["ACCELERATE_MIXED_PRECISION"] = precision

    def set_loader(self, knob, wanted, args):
        if knob in ("prefetch_factor", "persistent_workers") and not args.dataloader_num_workers:
            return "the loader has no worker processes"
        setattr(args, "dataloader_" + knob, wanted)
        if knob == "num_workers" and wanted == 0:
            args.dataloader_prefetch_factor, args.dataloader_persistent_workers = None, False
        return None

    def after(self, trainer):
        self.trainer = trainer
        frameworks = self.frameworks
        args = trainer.args
        self.own = self.own or own_values(args)
        switches = self.switches(args, trainer.model, type(trainer))
        for knob in KNOBS:
            frameworks.reads(knob, self.reader(knob))
            switch = dict(switches[knob])
            if self.unknown is not None:
                switch.update(why_not=self.unknown, agent=False)
            frameworks.tell(knob, **switch)
        ranks.tell(frameworks, "Trainer of transformers")

    # What there is.

    def switches(self, args, model, cls):
        """{knob: fields of its `switch` record}."""
        own, device = self.own, args.device.type
        found = {
            knob: {"how": "TrainingArguments.dataloader_" + knob, "current": own["dataloader_" + knob]}
            for knob in LOADER
        }
        batch = found["batch_size"] = {
            "how": "TrainingArguments.per_device_train_batch_size",
            "current": own["per_device_train_batch_size"],
        }
        split = found["accumulation"] = {
            "how": "TrainingArguments.gradient_accumulation_steps (batch %d / micro-batches)"
            % own["per_device_train_batch_size"],
            "current": own["gradient_accumulation_steps"],
            "values": divisors(own["per_device_train_batch_size"]),
            "why_not": self.no_split(args, cls) or "its loss could not be tried",
            "agent": True,
        }
        if args.auto_find_batch_size:
            for switch in (batch, split):
                switch.update(why_not="auto_find_batch_size changes the batch by itself", agent=False)
        amp = found["amp"] = {
            "how": "TrainingArguments.bf16",
            "current": own["amp"],
            "values": ["off", "bf16"] if device == "cpu" else ["off", "bf16", "fp16"],
        }
        if own["amp"] != "off":
            amp["why_not"] = "the script sets TrainingArguments.%s by itself" % own["amp"]
        found["checkpoint"] = self.checkpoint_switch(args, model)
        return found

    def checkpoint_switch(self, args, model):
        name = checkpointing_names(args)[0]
        switch = {
            "how": "TrainingArguments." + name,
            "current": "the script's own" if self.own["checkpoint"] else "none",
        }
        enable = getattr(model, name + "_enable", None)
        if self.own["checkpoint"]:
            switch["why_not"] = "the script sets TrainingArguments.%s by itself" % name
        elif enable is None or not getattr(model, "supports_gradient_checkpointing", False):
            switch.update(why_not="%s has no switch of its own" % type(model).__name__, agent=True)
        elif "every_n_layers" not in inspect.signature(enable).parameters:
            switch.update(why_not="it takes all blocks or none", agent=True)
        return switch

    def no_split(self, args, cls):
        """None, or what shows before training that the Trainer cannot make the same batches in parts."""
        for name in METHODS:
            if getattr(cls, name, None) is not getattr(self.module.Trainer, name, None):
                return "%s replaces %s" % (cls.__name__, name)
        kwargs = getattr(args.accelerator_config, "gradient_accumulation_kwargs", None)
        if kwargs and "num_steps" in kwargs and kwargs["num_steps"] != 1:
            return "accelerator_config has num_steps of its own"
        if args.dataloader_drop_last:
            return "dataloader_drop_last would keep parts of the batch that it drops now"
        if getattr(args, "train_sampling_strategy", "random") == "batch_rebalance":
            return "train_sampling_strategy=batch_rebalance makes its own batches"
        return None

    # The first step.

    def unseen(self, trainer):
        return trainer is self.trainer and trainer is not self.stepped

    def first_step(self, trainer, model, inputs):
        """Before the first forward: whether the loss bears accumulation through the Trainer."""
        self.stepped = trainer
        frameworks = self.frameworks
        wanted = frameworks.wanted("accumulation")
        asked = wanted is not None and wanted != 1
        if self.unknown is not None or not (asked or frameworks.session.plan.inspect):
            return
        switch = self.switches(trainer.args, trainer.model, type(trainer))["accumulation"]
        if switch["agent"]:
            switch["why_not"] = self.no_split(trainer.args, type(trainer)) or self.loss_stands_against(
                trainer, model, inputs
            )
        if asked and switch["why_not"] is not None:
            frameworks.refuse("accumulation", switch["why_not"])
        frameworks.tell("accumulation", **switch)

    def loss_stands_against(self, trainer, model, inputs):
        """None where losses of one sample each add up to the loss of two, over a common count of labels."""
        torch = self.frameworks.session.torch
        if not has_length(trainer.train_dataset):
            return "the length of the data set is not known, and a last batch in parts would not be used"
        if not scaled_by_items(trainer):
            return "the Trainer weighs all micro-batches alike, the uneven ones of an epoch's end too"
        labels = inputs.get("labels") if hasattr(inputs, "get") else None
        if labels is None:
            return "its batches have no labels to count"
        rows = _rows(inputs, labels.shape[0], torch)
        if rows is None:
            return "its batches have one sample"

        def loss(start, end, items):
            with torch.no_grad():
                part = trainer._prepare_inputs(rows(start, end))
                return float(
                    trainer.compute_loss(
                        model, part, num_items_in_batch=torch.tensor(items, device=trainer.args.device)
                    )
                )

        with Untouched(model, torch) as watch:
            watch.set_training(False)
            both, halved = loss(0, 2, 8), loss(0, 2, 16)
            apart = loss(0, 1, 8) + loss(1, 2, 8)
        name = type(trainer.model).__name__
        if _close(both, halved):
            return "the loss of %s ignores num_items_in_batch: gradients would be too large" % name
        if not _close(both, 2 * halved) or not _close(both, apart):
            return "the loss of %s is not a sum over labels divided by num_items_in_batch" % name
        return None

    # Reading back.

    def reader(self, knob):
        def read():
            trainer = self.trainer
            switches = self.switches(trainer.args, trainer.model, type(trainer))
            value, why_not = self.value(knob, trainer)
            if value is None or value == self.frameworks.wanted(knob):
                return value, switches[knob]["how"], why_not
            return None, switches[knob]["how"], "%s is %s" % (switches[knob]["how"].split(" ")[0], value)

        return read

    def value(self, knob, trainer):
        """(value in force, None) from the Trainer's own objects, or (None, why not)."""
        args, own = trainer.args, self.own
        if knob in LOADER:
            return getattr(args, "dataloader_" + knob), None
        if knob == "batch_size":
            return trainer._train_batch_size * self.frameworks.parts, None
        if knob == "accumulation":
            steps, before = args.gradient_accumulation_steps, own["gradient_accumulation_steps"]
            if steps % before:
                return None, "gradient_accumulation_steps is %d now" % steps
            return steps // before, None
        if knob == "amp":
            accelerator = trainer.accelerator
            precision = accelerator.mixed_precision
            if precision != "no" and not getattr(accelerator, "native_amp", True):
                return None, "Accelerator does nothing for %s on this device" % precision
            return "off" if precision == "no" else precision, None
        name = checkpointing_names(args)[0]
        if not getattr(args, name):
            return "none", None
        every = (getattr(args, name + "_kwargs") or {}).get("every_n_layers", 1)
        return {1: "all", 2: "alternate"}.get(every, "every %s" % every), None


def own_values(args):
    """What the script has set."""
    names = ["dataloader_" + knob for knob in LOADER]
    names += ["per_device_train_batch_size", "gradient_accumulation_steps"]
    own = {name: getattr(args, name, None) for name in names}
    precision = getattr(args, "mixed_precision", None) or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    own["amp"] = "fp16" if args.fp16 else "bf16" if args.bf16 else {"no": "off"}.get(precision, precision)
    own["checkpoint"] = any(getattr(args, name, False) for name in checkpointing_names(args))
    return own


def checkpointing_names(args):
    """The switch's names, the newer one first; the older one mirrors it until transformers 6."""
    names = ("activation_checkpointing", "gradient_checkpointing")
    return [name for name in names if hasattr(args, name)]


def scaled_by_items(trainer):
    """Whether the Trainer leaves the loss undivided, as it does where `num_items_in_batch` is passed on."""
    own = getattr(trainer, "loss_is_scaled_for_ga", None)
    if own is not None:
        return own
    return bool(trainer.model_accepts_loss_kwargs or trainer.compute_loss_func is not None)


def divisors(batch):
    """Powers of two that the batch is a multiple of."""
    return [k for k in (1 << n for n in range(7)) if k <= batch and batch % k == 0]


def has_length(dataset):
    return hasattr(dataset, "__len__")


def _rows(inputs, batch, torch):
    """A function that gives some samples of a batch, or None where it has one sample."""
    if batch < 2:
        return None

    def rows(start, end):
        return {
            name: value[start:end]
            if isinstance(value, torch.Tensor) and value.dim() and value.shape[0] == batch
            else value
            for name, value in inputs.items()
        }

    return rows


def _close(one, other):
    return abs(one - other) <= CLOSE * max(abs(one), abs(other), 1e-6)


def _version():
    return str(getattr(sys.modules.get("transformers"), "__version__", ""))
