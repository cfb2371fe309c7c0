"""`compile`: the root's training calls run through `module.compile(mode=...)`; all calls, in a script that
never trains.

Beside training, evaluation and whatever tries the model out run as they are written: only training is
measured, and nothing else is worth compiling for.  Where the compiler gives up, PyTorch runs that piece as it
is written; where it gives up everything, the knob is not in force and says what the compiler said.  The
backward pass is compiled together with the forward pass, so that nothing can fail later.
"""

import time

from .. import compiling, describe, tree
from .base import Knob

MANY_ROOTS = 4
# Modes that record CUDA graphs, whose outputs the next call overwrites.
RECORDING = ("reduce-overhead", "max-autotune")


class Compile(Knob):
    name = "compile"
    layer = 50
    per_root = True
    serves = True

    def __init__(self, session, wanted, way):
        super().__init__(session, wanted, way)
        self.states = {}  # id of a Root -> _State
        self.config = []  # (module, name, value before)
        self.before = (0, 0, 0)  # graphs, graph breaks and failures that are not ours
        self.breaks = 0
        self.seconds = 0.0  # of calls in which something was compiled

    def requires(self, root, args, kwargs):
        if self.wanted == "off":
            return None
        module = root.module
        if root.compiled or (not self.states and compiling.graphs()):
            return "the script uses torch.compile by itself"
        if not hasattr(module, "compile") or isinstance(module, self.torch.jit.ScriptModule):
            return "%s cannot be compiled in place" % root.name
        if len(self.session.roots.roots) > MANY_ROOTS:
            return "the script calls parts of its model one by one"
        if self.session.detect.double_backward:
            return "the script differentiates twice, which compiled code does not bear"
        wrapper = describe.distributed(module)
        if wrapper is not None:
            return "the model is wrapped in %s" % wrapper
        checkpointed = self.session.settings.get("checkpoint", "none") != "none"
        if checkpointed and describe.has_batch_norm(module, self.torch):
            return "BatchNorm in blocks that are compiled and computed again would be updated twice a step"
        device = next(module.parameters()).device.type
        if self.wanted == "reduce-overhead" and device != "cuda":
            return "reduce-overhead records CUDA graphs, which need a GPU"
        return compiling.tools_missing(device)

    def apply(self, root, args, kwargs):
        if self.wanted == "off":
            return
        if not self.states:
            self._configure()
        # As `module.compile()` makes it, but in force during training calls only: `around` puts it in place.
        call = root.module._call_impl
        if type(root.module).forward.__module__.startswith("torch."):
            call = _inlined(call)
        self.states[id(root)] = _State(self.torch.compile(call, mode=self.wanted))
        root.traced = True

    def _configure(self):
        import torch._dynamo
        import torch._functorch.config

        self.before = compiling.graphs(), compiling.graph_breaks(), len(compiling.failures())
        for module, name in (
            (torch._dynamo.config, "suppress_errors"),
            (torch._functorch.config, "force_non_lazy_backward_lowering"),
        ):
            if hasattr(module, name):
                self.config.append((module, name, getattr(module, name)))
                setattr(module, name, True)

    def around(self, root, call, args, kwargs):
        torch = self.torch
        state = self.states.get(id(root))
        if state is None or self.reason is not None or not self.session.roots.at_work():
            return call(*args, **kwargs)
        own = root.module.__dict__
        graphs, began = compiling.graphs(), time.perf_counter()
        own["_compiled_call_impl"] = state.call
        try:
            output = call(*args, **kwargs)
        finally:
            own.pop("_compiled_call_impl", None)
        state.calls += 1
        new = compiling.graphs() - graphs
        if new or not state.calls & (state.calls - 1):
            self._look(root, state, output, new, time.perf_counter() - began)
        if self.wanted in RECORDING and root.info is not None and root.info["device"].startswith("cuda"):
            output = tree.rebuild(output, lambda _, x: x.clone() if isinstance(x, torch.Tensor) else x)
        return output

    def _look(self, root, state, output, new, seconds):
        """After a call that compiled something, and now and then: does compiled code run?"""
        state.parts = self._parts(output)
        if new:
            self.seconds += seconds
            state.compilations += 1
            stepper = getattr(self.session, "stepper", None)
            if stepper is not None:
                stepper.unsteady()
        self.breaks = compiling.graph_breaks() - self.before[1]
        if not state.parts:
            root.traced = root.compiled
            said = compiling.failures(self.before[2])
            why = said[0] if said else "no compiled code ran in the call of %s" % root.name
            if state.compilations and state.calls > 1:
                why = "compiled code of %s is no longer used after %d compilations" % (
                    root.name,
                    state.compilations,
                )
            self.refuse(why)
        elif new and state.calls > 1:
            self.session.knob_changed(self)

    def _parts(self, output):
        """Compiled pieces that an output came from; without gradients nothing but the graphs tells."""
        if self.torch.is_grad_enabled():
            leaves = [leaf for _, leaf in tree.leaves(output) if isinstance(leaf, self.torch.Tensor)]
            return compiling.compiled_parts(leaves)
        graphs = compiling.graphs() - self.before[0]
        return max(graphs - len(compiling.failures(self.before[2])), 0)

    def verify(self):
        if self.wanted == "off":
            self.objects = len(self.session.roots.roots)
            self.how = "no compiled code"
            return "off" if not compiling.graphs() else None
        if not self.acts:
            self.reason = "only the agent compiles"
            return None
        ran = [state for state in self.states.values() if state.parts]
        self.objects = len(ran)
        if not ran:
            self.reason = "no training call of a module was seen"
            return None
        again = sum(state.compilations - 1 for state in ran)
        said = compiling.failures(self.before[2])
        self.how = "torch.compile(mode=%s) in place: %s, %s, %.1f s to compile%s%s" % (
            self.wanted,
            _count(compiling.graphs() - self.before[0], "graph"),
            _count(self.breaks, "graph break"),
            self.seconds,
            "; compiled again in %s" % _count(again, "later call") if again else "",
            "; %d times the compiler gave up (%s)" % (len(said), said[0]) if said else "",
        )
        return self.wanted

    def not_twice(self):
        if not self.acts or self.wanted == "off":
            return None
        return "the script differentiates twice, which compiled code does not bear"

    def undo(self):
        self.states.clear()
        for module, name, value in self.config:
            setattr(module, name, value)
        self.config = []


def _inlined(call):
    """The compiler passes over a frame of PyTorch's own (Sequential), but not over what ours calls."""

    def inline(*args, **kwargs):
        return call(*args, **kwargs)

    return inline


class _State:
    """What became of one root."""

    def __init__(self, call):
        self.call = call
        self.calls = 0
        self.compilations = 0  # calls in which something was compiled
        self.parts = 0  # compiled pieces that the latest output looked at came from


def _count(n, noun):
    return "%d %s%s" % (n, noun, "" if n == 1 else "s")
