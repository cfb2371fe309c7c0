"""The knobs: one file each, in the order of the contract (`src/model/knob.rs`)."""

from .. import imports
from ..session import DONE
from . import (
    accumulation,
    amp,
    buckets,
    channels_last,
    checkpoint,
    compile,
    dataloader,
    empty_cache,
    environment,
    flags,
    idle_models,
    inference_mode,
    inplace,
    memory_budget,
    offload,
    optimizer,
    set_to_none,
    strategy,
    wrapped,
)
from .base import Knob

KINDS = {
    kind.name: kind
    for kind in (
        strategy.Strategy,
        environment.Allocator,
        dataloader.BatchSize,
        accumulation.Accumulation,
        amp.Amp,
        checkpoint.Checkpoint,
        dataloader.NumWorkers,
        dataloader.PinMemory,
        dataloader.PrefetchFactor,
        dataloader.PersistentWorkers,
        environment.OmpThreads,
        environment.Malloc,
        offload.Offload,
        optimizer.Optimizer,
        set_to_none.SetToNone,
        flags.Tf32,
        flags.CudnnBenchmark,
        channels_last.ChannelsLast,
        compile.Compile,
        empty_cache.EmptyCache,
        inplace.Inplace,
        strategy.Processes,
        memory_budget.MemoryBudget,
        idle_models.IdleModels,
        inference_mode.InferenceMode,
        buckets.GradientAsBucketView,
        buckets.BucketCapMb,
    )
}


def install(session):
    """Gets the knobs of the plan ready once torch is there."""

    def ready(_torch):
        session.knobs = Knobs(session)
        session.knobs.start()

    imports.on_import("torch", ready)


class Unknown(Knob):
    """A knob that this version does not turn."""

    def start(self):
        self.refuse("not supported by this version")


class Knobs:
    """All knobs of a plan, from the first line of the script to their reports."""

    def __init__(self, session):
        self.session = session
        self.roots = session.roots
        self.reported = {}  # name -> last report
        self.all = []
        for name, wanted in session.plan.settings.items():
            kind = KINDS.get(name, Unknown)
            if kind is strategy.Strategy and session.plan.script_ranks > 1:
                kind = wrapped.Wrapped
            knob = kind(session, wanted, session.plan.ways.get(name, "agent"))
            knob.name = name
            self.all.append(knob)
        session.knob_changed = self.changed

    def get(self, name):
        """The knob of this name, which the plan has a setting for."""
        return next(knob for knob in self.all if knob.name == name)

    def start(self):
        """Once torch is there, before the script builds anything."""
        for knob in self.all:
            self._try(knob, knob.start)
        self.roots.layers.extend(layers(self.all))
        self.roots.on_found.append(self._found)
        self.roots.on_first_output.append(self._called)
        self.session.on_step(self.stepped)

    def stepped(self, _index):
        """After each optimizer step; the first one completes the reports."""
        for knob in self.all:
            if knob.name not in self.reported:
                self.tell(knob)
        return DONE

    def changed(self, knob):
        """A knob turned out not to be in force: said at once, even if it was reported as in force before."""
        if knob.told:
            self.tell(knob)

    def tell(self, knob):
        try:
            report = knob.report()
            if self.session.options is not None:
                report = self.session.options.checked(report)
        except Exception as error:
            self.session.fault("knob." + knob.name, error)
            return
        if self.reported.get(knob.name) != report:
            self.reported[knob.name] = report
            self.session.knob(**report)

    def double_backward(self):
        """The script differentiates through gradients: knobs that cannot bear it say so."""
        for knob in self.all:
            if knob.not_twice() is not None:
                knob.refuse(knob.not_twice())

    def mind_double_backward(self):
        """Whether any of them cannot bear it."""
        return any(knob.not_twice() is not None for knob in self.all)

    def undo(self):
        for knob in self.all:
            self._try(knob, knob.undo)

    def _found(self, root, args, kwargs):
        for knob in self.all:
            self._try(knob, knob.meet, root, args, kwargs)

    def _called(self, root):
        if root.index == 0:
            for knob in self.all:
                if knob.per_root and knob.name not in self.reported:
                    self.tell(knob)

    def _try(self, knob, function, *values):
        try:
            function(*values)
        except Exception as error:
            knob.refuse("the agent failed: %s: %s" % (type(error).__name__, error))
            self.session.fault("knob." + knob.name, error)


def layers(knobs):
    """Those that act around a root's call, outermost first."""
    return sorted((knob for knob in knobs if knob.layer is not None), key=lambda knob: knob.layer)
