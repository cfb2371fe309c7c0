"""`activation_memory_budget`: the part of the activations that compiled code keeps for the backward pass.

PyTorch's partitioner solves a knapsack for it: 1 keeps what is fastest, 0 computes everything again from the
arguments. It acts while something is compiled, by `compile` or by the script's own torch.compile, so it is
set before the first call.

What is computed again draws new random numbers in the backward pass (pytorch/pytorch#190758): gradients would
belong to other dropout masks, without a word. A graph that draws is compiled as without a budget, and the
knob says so. To see every graph, PyTorch's cache of partitioned graphs is off meanwhile; that of kernels is
not.
"""

import importlib

from .. import describe, patches
from .base import Knob

NAME = "activation_memory_budget"
MODULES = "torch._functorch.config", "torch._functorch.partitioners"
CHOICE = "choose_saved_values_set"  # the partitioner's function that is given the budget
CACHE = "enable_autograd_cache"
DRAWS = "%s draws random numbers (dropout), which compiled code would draw anew where it computes again"


class MemoryBudget(Knob):
    name = NAME
    per_root = True

    def __init__(self, session, wanted, way):
        super().__init__(session, wanted, way)
        self.budget = float(wanted)
        self.config = None
        self.own = False  # the script compiles by itself
        self.before = {}  # name of a setting -> its value before
        self.graphs = []  # (budget that it was partitioned with, results kept, their bytes)

    # Before the first call.

    def requires(self, root, args, kwargs):
        if self.budget == 1:
            return None
        if not root.compiled:
            if self.session.settings.get("compile", "off") == "off":
                return "it is a setting of torch.compile, and %s is not compiled" % root.name
            if self._compile_refused() is not None:
                return self._compile_refused()
        if self.session.settings.get("checkpoint", "none") != "none":
            return "checkpoint already says what is computed again"
        user = describe.checkpoints_itself(root.module)
        if user is not None:
            return "%s checkpoints by itself already" % user
        if describe.has_dropout(root.module, self.torch):
            return DRAWS % root.name
        if self.config is not None:
            return None
        config, partitioners = map(importlib.import_module, MODULES)
        if not hasattr(config, NAME) or not hasattr(partitioners, CHOICE):
            return "PyTorch %s has no %s" % (self.torch.__version__, NAME)
        if getattr(config, NAME) != 1:
            return "the script sets %s to %g by itself" % (NAME, getattr(config, NAME))
        return None

    def _compile_refused(self):
        """None, or that the knob which would compile is not in force."""
        reason = self.session.knobs.get("compile").reason
        return None if reason is None else "nothing is compiled: %s" % reason

    def apply(self, root, args, kwargs):
        self.own = self.own or root.compiled
        if self.budget == 1 or self.config is not None:
            return
        self.config, partitioners = map(importlib.import_module, MODULES)
        patches.replace(partitioners, CHOICE, self._watched)
        self._set(NAME, self.budget)
        if hasattr(self.config, CACHE):
            self._set(CACHE, False)

    def _set(self, name, value):
        self.before[name] = getattr(self.config, name)
        setattr(self.config, name, value)

    # While something is compiled.

    def _watched(self, original):
        sees = self.session.guard(NAME)(self._sees)

        def choose(joint_graph, node_info, memory_budget=1, **more):
            if self.before and memory_budget != 1 and not sees(joint_graph):
                memory_budget = 1
            saved = original(joint_graph, node_info, memory_budget=memory_budget, **more)
            if self.before:
                kept = [_bytes(node) for node in saved if node.op != "placeholder"]
                self.graphs.append((memory_budget, len(kept), sum(kept)))
                if NAME in self.session.knob_reports:
                    self.session.knob_changed(self)
            return saved

        return choose

    def _sees(self, graph):
        """Whether what this graph computes may be computed again."""
        if any(_draws(node, self.torch) for node in graph.nodes):
            self.refuse(DRAWS % "the model")
            self.undo()  # for what is compiled later
            return False
        return True

    # Reading back.

    def verify(self):
        self.how = "torch._functorch.config.%s" % NAME
        if not self.acts:
            self.reason = "only the agent sets it"
            return None
        if self.budget == 1:
            config = importlib.import_module(MODULES[0])
            return self.wanted if getattr(config, NAME, 1) == 1 else None
        if not self.graphs:
            asked = not self.own and self.session.settings.get("compile", "off") != "off"
            refused = self._compile_refused() if asked else None
            self.reason = refused or "nothing was compiled together with its backward pass"
            return None
        self.objects = len(self.graphs)
        self.how += ": of %d compiled graph%s %d results of %.1f MiB are kept for the backward pass" % (
            self.objects,
            "" if self.objects == 1 else "s",
            sum(count for _, count, _ in self.graphs),
            sum(size for _, _, size in self.graphs) / 2**20,
        )
        found = sorted({budget for budget, _, _ in self.graphs})
        if found != [self.budget]:
            self.reason = "graphs were compiled with %s" % ", ".join("%g" % budget for budget in found)
            return None
        return self.wanted

    def undo(self):
        for name, value in self.before.items():
            setattr(self.config, name, value)
        self.before = {}


def _draws(node, torch):
    """Whether an operation of a graph draws random numbers."""
    target = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        # Operators that hold graphs of their own: only those that carry a random state are told by name.
        return node.op == "call_function" and "rng" in getattr(target, "__name__", "")
    if torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    # Attention may drop something, and mostly does not.
    for place, argument in enumerate(target._schema.arguments):
        if argument.name == "dropout_p":
            given = node.args[place] if place < len(node.args) else argument.default_value
            return node.kwargs.get("dropout_p", given) != 0
    return True


def _bytes(node):
    """Of what an operation of a graph returns; 0 where that is no tensor of known size."""
    value = node.meta.get("val")
    sizes = getattr(value, "shape", ())
    if not hasattr(value, "element_size") or not all(isinstance(n, int) for n in sizes):
        return 0
    return value.numel() * value.element_size()
