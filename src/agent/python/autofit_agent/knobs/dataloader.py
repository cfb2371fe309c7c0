"""Arguments of the DataLoader that training draws from: workers, pinned memory, prefetching, batch size.

They are changed in `DataLoader.__init__`.  Loaders for evaluation stay as they are: scripts size things by
them.  Which loader trains is known from the first launch of a search (`training_loader` of the plan, the
number in the order of construction); without it no loader is touched.
"""

from .base import Knob


class LoaderKnob(Knob):
    """One argument of the training loader."""

    def __init__(self, session, wanted, way):
        super().__init__(session, wanted, way)
        self.index = getattr(session.plan, "training_loader", None)

    def start(self):
        if not self.acts:
            return
        if self.index is None:
            self.refuse("no DataLoader was seen to feed training")
            return
        self.session.loader_hooks.append(self)

    def building(self, index, _site, arguments):
        if index != self.index or self.reason is not None:
            return
        reason = self.stands_against(arguments)
        if reason is not None:
            self.refuse(reason)
            return
        self.change(arguments)
        self.applied = True

    def stands_against(self, _arguments):
        """None, or why this loader cannot take it."""

    def change(self, arguments):
        arguments[self.name] = self.wanted

    def loader(self):
        """The training loader, if it was built."""
        loaders = self.session.loaders
        known = [self.index] if self.index is not None else sorted(loaders.training)
        return next((one for one in map(loaders.get, known) if one is not None), None)

    def read(self, loader):
        return getattr(loader, self.name)

    def verify(self):
        loader = self.loader()
        if loader is None:
            self.reason = "the training loader was not built in this process"
            return None
        self.objects = 1
        built = self.session.loaders.built
        how = "DataLoader.__init__" if self.acts else "read from the DataLoader"
        self.how = "%s (1 of %d loaders)" % (how, built)
        found = self.read(loader)
        if found != self.wanted:
            self.reason = "the loader has %s=%s" % (self.name, found)
            return None
        return found


class NumWorkers(LoaderKnob):
    name = "num_workers"

    def change(self, arguments):
        arguments["num_workers"] = self.wanted
        if self.wanted == 0:
            # DataLoader refuses these without workers.
            arguments.update(
                prefetch_factor=None, persistent_workers=False, timeout=0, multiprocessing_context=None
            )


class PinMemory(LoaderKnob):
    name = "pin_memory"

    def read(self, loader):
        return bool(loader.pin_memory)


class NeedsWorkers(LoaderKnob):
    def stands_against(self, arguments):
        # The hook of `num_workers` comes first: knobs stand in the contract's order.
        if not arguments.get("num_workers", 0):
            return "the loader has no worker processes"
        return None


class PrefetchFactor(NeedsWorkers):
    name = "prefetch_factor"


class PersistentWorkers(NeedsWorkers):
    name = "persistent_workers"

    def read(self, loader):
        return bool(loader.persistent_workers)


class BatchSize(LoaderKnob):
    """`batch_size`: the effective batch, through the script's own option or the training loader."""

    name = "batch_size"

    def stands_against(self, arguments):
        if arguments.get("batch_sampler") is not None:
            return "the loader has a batch sampler of the script's own"
        if arguments.get("batch_size", 1) is None:
            return "the dataset makes its batches by itself"
        return None

    def read(self, loader):
        own = loader.batch_size
        own = own if own is not None else getattr(loader.batch_sampler, "batch_size", None)
        if own is None:
            return None
        plan = self.session.plan
        if plan.ways.get("accumulation") == "option":
            return own * plan.settings.get("accumulation", 1)  # the script's own option made it smaller
        # A framework that was asked to accumulate draws its micro-batches from the loader.
        return own * self.session.frameworks.parts

    def verify(self):
        if self.loader() is not None:
            return super().verify()
        # No loader: the script makes its batches by itself; dimension 0 of the root's argument shows them.
        seen = [root.info.get("batch") for root in self.session.roots.roots if root.info]
        if self.wanted in seen:
            self.how, self.objects = "dimension 0 of the root's argument", 1
            return self.wanted
        self.reason = "the root was called with batches of %s" % (", ".join(map(str, seen)) or "unknown size")
        return None
