"""What the first steps have made of the model, for the launcher to compare with the baseline's.

Before the first call of a root the parameters and buffers are sketched (`sketch.py`), and two samples of the
first root's arguments are kept.  After `parity_steps` steps the `parity` record tells the parameters, how
they have changed, the buffers that have changed (the statistics of BatchNorm), and what the first root makes
of the kept samples in evaluation mode.

The trial sees nothing of it: the evaluation leaves no trace in the module or in any random state
(`untouched.py`), its time is taken out of the steps', and it comes when the peak is behind it: two samples
without gradients need less than any training step.
"""

from . import norms, roles, tree
from .sketch import Sketch, change, join
from .untouched import Untouched

SAMPLES = 2
MOST_OUTPUTS = 8
MOST_ROOTS = 4  # a script that calls its layers one by one has very many
WHOLE_BYTES = 1 << 20  # arguments that cannot be cut to a few samples are kept whole up to this size
_SEED = 20240
# Where hooks come from that are no script's: weight_norm and the like are part of the model, and `strategy`
# has sharded models put together in theirs.
_NOT_THE_SCRIPTS = ("torch.nn.utils", "torch.distributed.fsdp", "autofit_agent.ranks")


class NotCompared(Exception):
    """There is no evaluation output; the text says why."""


def install(session):
    """Does nothing where no step is to be compared."""
    if session.plan.parity_steps > 0:
        prints = Fingerprints(session)
        session.roots.on_found.append(prints.found)
        session.on_step(prints.stepped)


class Fingerprints:
    """See the head of this file."""

    def __init__(self, session):
        self.session = session
        self.torch = session.torch
        self._roots = []
        self._seen = set()  # ids of the tensors below
        self._parameters = []  # (tensors, their numbers before the first call)
        self._buffers = []  # (module, name, numbers before)
        self._samples = None  # the first root's arguments
        self._without = None  # why there are none
        self._done = False

    # Before the first call of a root.

    def found(self, root, args, kwargs):
        """Called by root.py.  A root that serves shows what it returns (`inference.py`)."""
        if root.serves or self._done or len(self._roots) >= MOST_ROOTS:
            return
        self._roots.append(root)
        owned = [p for o in self.session.optimizers if o() is not None for p in norms.parameters_of(o())]
        fresh = self._fresh(owned + list(root.module.parameters()))
        if fresh:
            self._parameters.append((fresh, self._numbers(fresh)))
        for module in root.module.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None and self._fresh([buffer]):
                    self._buffers.append((module, name, self._numbers([buffer], len(self._buffers))))
        if len(self._roots) == 1:
            try:
                self._samples = self._kept(args, kwargs)
            except NotCompared as why:
                self._without = str(why)

    def _fresh(self, tensors):
        lazy = self.torch.nn.parameter.is_lazy
        fresh = []
        for tensor in tensors:
            if id(tensor) not in self._seen and not lazy(tensor) and tensor.layout == self.torch.strided:
                self._seen.add(id(tensor))
                fresh.append(tensor)
        return fresh

    def _numbers(self, tensors, salt=0):
        sketch = Sketch(self.torch, salt)
        with self.torch.no_grad():
            for tensor in tensors:
                sketch.add(tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor)
        return sketch.numbers()

    def _kept(self, args, kwargs):
        """A few samples of the arguments, where it is plain which dimension they lie in."""
        torch = self.torch
        tensors = [leaf for _, leaf in tree.leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if not tensors:
            raise NotCompared("the model's arguments are no tensors")
        if any(t.layout != torch.strided for t in tensors):
            raise NotCompared("the model's arguments are sparse")
        sizes = {t.shape[0] for t in tensors if t.dim() > 0} - {1}
        if len(sizes) == 1:
            return self._copies(args, kwargs, SAMPLES)
        whole = sum(t.numel() * t.element_size() for t in tensors)
        if whole > WHOLE_BYTES or "accumulation" in self.session.settings:
            # Evaluating a whole batch could need more memory than training on a part of it.
            raise NotCompared("the batch cannot be cut to a few samples")
        return self._copies(args, kwargs, None)

    def _copies(self, args, kwargs, samples):
        def copy(_, leaf):
            if not isinstance(leaf, self.torch.Tensor):
                return leaf
            leaf = leaf.detach()
            return (leaf[:samples] if leaf.dim() > 0 else leaf).clone()

        return tree.rebuild((args, kwargs), copy)

    # After the last step that is compared.

    def stepped(self, index):
        """Called after each optimizer step."""
        if self._done or index + 1 < self.session.plan.parity_steps:
            return
        self._done = True
        self.session.roots.on_found.remove(self.found)
        if not self._roots:
            return
        try:
            self._tell()
        finally:
            self._parameters, self._buffers, self._samples, self._roots = [], [], None, []
            self.session.stepper.skip_time()

    def _tell(self):
        after = [self._numbers(tensors) for tensors, _ in self._parameters]
        changes = [change(before, now) for (_, before), now in zip(self._parameters, after)]
        outputs, inputs = None, None
        if self._without is None:
            try:
                inputs, outputs = self._evaluate()
            except NotCompared as why:
                self._without = str(why)
        self.session.emit(
            "parity",
            steps=self.session.steps,
            parameters=join(after) if after else None,
            update=[sum(column) for column in zip(*changes)],
            buffers=self._changed_buffers(),
            inputs=inputs,
            outputs=outputs or {},
            without=self._without,
        )

    def _changed_buffers(self):
        """Masks and tables stay as they are and say nothing."""
        now = []
        for salt, (module, name, before) in enumerate(self._buffers):
            buffer = module._buffers.get(name)
            if buffer is None or buffer.layout != self.torch.strided:
                continue
            numbers = self._numbers([buffer], salt)
            if numbers["sketch"] != before["sketch"] and before["norm"] - before["norm"] == 0.0:
                now.append(numbers)
        return join(now) if now else None

    def _evaluate(self):
        torch, module = self.torch, self._roots[0].module
        if module is None:
            raise NotCompared("the model is gone")
        if roles.world_size() > 1 and self.session.part_of is None:
            raise NotCompared("several processes train")
        hooked = _hooked(module)
        if hooked is not None:
            raise NotCompared(f"{hooked} has hooks of the script")
        args, kwargs = self._samples
        inputs = self._numbers([t for t in _tensors(self._samples, torch)])
        try:
            with Untouched(module, torch) as watch, self.session.roots.hidden(), torch.no_grad():
                watch.set_training(False)
                # Dropout that does not ask for the mode draws the same in all runs.
                torch.random.default_generator.manual_seed(_SEED)
                if torch.cuda.is_available() and torch.cuda.is_initialized():
                    torch.cuda.manual_seed(_SEED)
                output = module(*args, **kwargs)
                told = {}
                for path, leaf in tree.leaves(output):
                    if len(told) < MOST_OUTPUTS and _is_vector(leaf, torch):
                        told[tree.path_text(path)] = self._numbers([leaf])
        except Exception as error:
            text = str(error).strip().split("\n")[0][:200]
            raise NotCompared(
                f"an evaluation of two samples fails: {type(error).__name__}: {text}"
            ) from error
        if not told:
            raise NotCompared("the model returns no tensors")
        return inputs, told


def _tensors(value, torch):
    return [leaf for _, leaf in tree.leaves(value) if isinstance(leaf, torch.Tensor)]


def _is_vector(leaf, torch):
    return isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.layout == torch.strided


def _hooked(module):
    """A class with forward hooks that are the script's own: they must not see another call."""
    for m in module.modules():
        hooks = [*m._forward_hooks.values(), *m._forward_pre_hooks.values()]
        for hook in hooks:
            home = getattr(hook, "__module__", None) or type(hook).__module__
            if not home.startswith(_NOT_THE_SCRIPTS):
                return type(m).__name__
    return None
