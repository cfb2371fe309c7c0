"""`checkpoint`: the repeated blocks keep only their inputs and are computed again in the backward pass.

Always without reentrant autograd and always with the random state restored: dropout draws the same masks
again. Buffers that a block's forward changes in place (the running statistics of BatchNorm) are replaced by
copies while it is computed again; otherwise they would be updated twice in a step.

`selective` keeps the results of products, convolutions and attention too (`selective.py`), and `alternate`
leaves every second block as it is.
"""

import contextlib

from .. import blocks as block_search
from .. import describe, parts, tree
from ..compiling import is_compiling
from . import selective
from .base import Knob


class Checkpoint(Knob):
    name = "checkpoint"
    layer = 40
    per_root = True

    def __init__(self, session, wanted, way):
        super().__init__(session, wanted, way)
        self.members = {}  # id of a block -> block
        self.buffers = {}  # id of a block -> [(module, name of a buffer)]
        self.probed = set()
        self.patched = []  # (class, own forward or None, ours)
        self.switched = []  # models told to checkpoint by themselves
        self.ours = 0  # checkpoint calls made here
        self.calls = 0  # checkpoint calls of any kind in the first root call
        self.places = []
        self.expected = 0
        self.selection = None
        if way == "framework" and wanted == "selective":
            # No framework's switch knows it: the agent tells the model, whose own switch takes a context.
            self.acts, self.way = True, "agent"

    @classmethod
    def turns_between_steps(cls, _value):
        return True

    def start(self):
        if self.acts and self.wanted == "selective" and selective.available(self.torch):
            self.selection = selective.Selection(self.torch)
            self.selection.told_changed = self._kept_was_changed

    def _kept_was_changed(self):
        self.refuse("what is kept of a block is changed in place afterwards, so that all is computed again")

    # Before the first call.

    def requires(self, root, args, kwargs):
        module = root.module
        if self.wanted == "none":
            return None
        if self.wanted == "selective" and self.selection is None:
            return "PyTorch %s cannot keep the results of chosen operators" % self.torch.__version__
        if self.selection is not None and root.compiled:
            return "in a compiled model the compiler chooses what is kept and what is computed again"
        user = describe.checkpoints_itself(module)
        if user is not None:
            return "%s checkpoints by itself already" % user
        if root.index > 0 and self.members and block_search.find_blocks(module, self.torch) is None:
            return None  # another root has blocks
        blocks = block_search.find_blocks(module, self.torch)
        if blocks is None:
            return "%s has no repeated blocks" % root.name
        if isinstance(blocks.modules[0], self.torch.jit.ScriptModule):
            return "the blocks of %s are compiled to TorchScript" % root.name
        if root.compiled and root.info["batch_norm"]:
            return "BatchNorm in a compiled model would be updated twice a step"
        return None

    def apply(self, root, args, kwargs):
        if self.wanted == "none":
            return
        module = root.module
        blocks = block_search.find_blocks(module, self.torch)
        if blocks is None:
            return
        chosen = blocks.modules[::2] if self.wanted == "alternate" else blocks.modules
        own_switch = has_own_switch(module)
        if own_switch is not None:
            self._switch_on(own_switch, blocks, chosen)
            return
        self.places.append(
            "%s (%d of %d %s)"
            % (blocks.path or root.name, len(chosen), len(blocks.modules), blocks.block_class.__name__)
        )
        self.expected += len(chosen)
        for block in chosen:
            self.members[id(block)] = block
            self.buffers[id(block)] = [
                (m, name) for m in block.modules() for name, b in m._buffers.items() if b is not None
            ]
        self._patch(blocks.block_class)

    def _switch_on(self, model, blocks, chosen):
        """A transformers model: its own switch also turns the key-value cache off."""
        switch(model, True, self.selection)
        kept = {id(block) for block in chosen}
        for block in blocks.modules:
            if id(block) not in kept and "gradient_checkpointing" in block.__dict__:
                block.gradient_checkpointing = False
        self.switched.append(model)
        self.expected += len(chosen)
        self.places.append(
            "%s.%s_checkpointing_enable (%d of %d %s)"
            % (
                type(model).__name__,
                switch_name(model),
                len(chosen),
                len(blocks.modules),
                blocks.block_class.__name__,
            )
        )

    def _patch(self, cls):
        if any(cls is patched for patched, _, _ in self.patched):
            return
        own = cls.__dict__.get("forward")
        original = cls.forward
        members = self.members
        compiling = is_compiling(self.torch)
        grad_on = self.torch.is_grad_enabled
        checkpoint = self.torch.utils.checkpoint.checkpoint
        eager = self._eager

        def forward(block, *args, **kwargs):
            if id(block) not in members or not grad_on():
                return original(block, *args, **kwargs)
            if compiling():
                # A closure: the compiler does not trace how a function is bound.
                return checkpoint(
                    lambda *a, **k: original(block, *a, **k), *args, use_reentrant=False, **kwargs
                )
            return eager(block, original, args, kwargs)

        for name in ("__doc__", "__name__", "__qualname__", "__module__", "__annotations__"):
            with contextlib.suppress(AttributeError):
                setattr(forward, name, getattr(original, name))
        forward.__wrapped__ = original  # the signature that frameworks look at
        self.patched.append((cls, own, forward))
        cls.forward = forward

    # In the root's forward.

    def _eager(self, block, original, args, kwargs):
        torch = self.torch
        if self.session.roots.tracing():
            return original(block, *args, **kwargs)
        if self.session.detect.checkpoints.inside_theirs:
            self._spare(block)
            self.refuse("%s is checkpointed by the script already" % type(block).__name__)
            return original(block, *args, **kwargs)
        if id(block) in self.probed:
            return self._checkpointed(block, original, args, kwargs)
        # The first time on copies: a block that changes its input in place cannot be computed again from it.
        self.probed.add(id(block))
        copies = []

        def twin(_, leaf):
            if isinstance(leaf, torch.Tensor) and type(leaf) is torch.Tensor:
                leaf = leaf.clone()
                copies.append((leaf, leaf._version))
            return leaf

        state = parts.random_state(torch)
        kept = [(m, name, m._buffers[name], m._buffers[name].clone()) for m, name in self.buffers[id(block)]]
        output = self._checkpointed(block, original, tree.rebuild(args, twin), tree.rebuild(kwargs, twin))
        if all(copy._version == version for copy, version in copies):
            return output
        del output
        self._spare(block)
        self.refuse(
            "%s changes its input in place, so that it cannot be computed again from it"
            % type(block).__name__
        )
        parts.restore_random_state(torch, state)
        with torch.no_grad():
            for m, name, buffer, before in kept:
                buffer.copy_(before)
                m._buffers[name] = buffer
        return original(block, *args, **kwargs)

    def _spare(self, block):
        """Not this block.  The others go on: a recomputation must find what its forward found."""
        self.members.pop(id(block), None)

    def _checkpointed(self, block, original, args, kwargs):
        self.ours += 1
        norms = self.torch.nn.modules.batchnorm._NormBase
        keep = _KeepBuffers(self.buffers[id(block)], norms, self.selection)
        clash = any(name in kwargs for name in _OWN_WORDS)
        output = self.session.detect.checkpoints.run(
            (lambda *a: original(block, *a, **kwargs)) if clash else original.__get__(block),
            args,
            {} if clash else kwargs,
            context_fn=keep.contexts,
        )
        keep.forward_ended()
        return output

    def around(self, root, call, args, kwargs):
        if not self.first(root) or not self.torch.is_grad_enabled():
            return call(*args, **kwargs)
        checkpoints, ours = self.session.detect.checkpoints, self.ours
        theirs = checkpoints.theirs
        output = call(*args, **kwargs)
        theirs = checkpoints.theirs - theirs
        self.calls += theirs + self.ours - ours
        if self.selection is not None:
            self.selection.first = self.selection.results
        # From PyTorch 2.15 on our calls in a compiled graph are seen too; they look like the script's.
        if theirs and not root.traced and self.acts and self.members:
            self.refuse("%s checkpoints by itself already (%d calls)" % (root.name, theirs))
        return output

    # Reading back.

    def verify(self):
        done = self.calls
        self.objects = done
        compiled = any(root.traced for root in self.session.roots.roots)
        if self.wanted == "none":
            self.how = "no call of torch.utils.checkpoint"
            return "none" if done == 0 else "all"
        if not self.acts:
            self.how = "%d calls of torch.utils.checkpoint in a forward" % done
            return self._by_number(done)
        if not self.places:
            return None  # no module was called with gradients
        self.how = "torch.utils.checkpoint around " + "; ".join(self.places)
        if compiled and self.members:
            self.objects = self.expected  # traced: the calls are inside the compiled graph
            return self.wanted
        if done < self.expected:
            self.reason = "%d of %d blocks were checkpointed" % (done, self.expected)
            return None
        if self.selection is not None:
            if not self.selection.results:
                self.reason = "the blocks multiply, convolve and attend nothing whose result could be kept"
                return None
            self.how += ", results of %d operators kept" % self.selection.first
        return self.wanted

    def _by_number(self, done):
        """`all` or `alternate`, by the number of calls that somebody else made in a forward."""
        blocks = [
            root.info["blocks"]["count"]
            for root in self.session.roots.roots
            if root.info and root.info["blocks"]
        ]
        if not done:
            return None
        return "alternate" if blocks and 2 * done <= max(blocks) + 1 else "all"

    def undo(self):
        self.members.clear()
        for cls, own, ours in self.patched:
            if cls.__dict__.get("forward") is ours:
                if own is None:
                    del cls.forward
                else:
                    cls.forward = own
        for model in self.switched:
            switch(model, False)
        self.patched, self.switched = [], []


# Keyword arguments of torch.utils.checkpoint.checkpoint itself.
_OWN_WORDS = ("use_reentrant", "preserve_rng_state", "context_fn", "determinism_check", "debug", "early_stop")


class _KeepBuffers:
    """Lets a block's buffers be updated by its forward, not again by its recomputation."""

    def __init__(self, places, statistics, selection):
        self.selection = selection
        self.before = [(m, name, m._buffers.get(name), _version(m._buffers.get(name))) for m, name in places]
        self.statistics = statistics
        self.changed = []

    def forward_ended(self):
        for m, name, buffer, version in self.before:
            now = m._buffers.get(name)
            # Normalisation writes its statistics behind autograd's back: their version does not tell.
            if now is not buffer or _version(now) != version or isinstance(m, self.statistics):
                self.changed.append((m, name))
        self.before = []

    def contexts(self):
        copies = _OnCopies(self.changed)
        if self.selection is None:
            return contextlib.nullcontext(), copies
        keeping, using = self.selection.contexts()
        return keeping, _Both(copies, using)


class _Both(contextlib.AbstractContextManager):
    """One context in another."""

    def __init__(self, outer, inner):
        self.outer, self.inner = outer, inner

    def __enter__(self):
        self.outer.__enter__()
        self.inner.__enter__()

    def __exit__(self, *error):
        self.inner.__exit__(*error)
        self.outer.__exit__(*error)


class _OnCopies:
    """While entered, the named buffers are copies."""

    def __init__(self, places):
        self.places = places
        self.kept = []

    def __enter__(self):
        self.kept = [
            (m, name, m._buffers[name]) for m, name in self.places if m._buffers.get(name) is not None
        ]
        for m, name, buffer in self.kept:
            m._buffers[name] = buffer.detach().clone()

    def __exit__(self, *_):
        for m, name, buffer in self.kept:
            m._buffers[name] = buffer
        self.kept = []


def _version(tensor):
    return None if tensor is None or tensor.is_inference() else tensor._version


def has_own_switch(module):
    """The model below that has the switch of transformers, or None."""
    for m in module.modules():
        if getattr(type(m), "supports_gradient_checkpointing", False) and hasattr(
            m, "gradient_checkpointing_enable"
        ):
            return m
    return None


def switch_name(model):
    """The newer name where there is one: the older one is deprecated from transformers 5 on."""
    return "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"


def switch(model, on, selection=None):
    """Turns the model's own checkpointing on, without reentrant autograd, or off."""
    name = switch_name(model) + "_checkpointing"
    if on:
        words = {"use_reentrant": False}
        if selection is not None:
            words["context_fn"] = selection.contexts
        getattr(model, name + "_enable")(**{name + "_kwargs": words})
    else:
        getattr(model, name + "_disable")()
