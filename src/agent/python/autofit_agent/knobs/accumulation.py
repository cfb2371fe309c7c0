"""`accumulation`: one batch in k micro-batches inside the root's call, at the same effective batch.

The script's loop stays as written: its counters, clipping, schedule and logged loss see whole batches.

- The root returns a loss: each part's gradient is taken at once (`parts.py`), nothing is computed twice.
- Otherwise each part is checkpointed as a whole and the outputs are joined: one more forward.

Where `strategy` shares out batches among several processes, each micro-batch is shared out.

Which arguments are split, and how outputs make the whole, is found by trying (`checking.py`); what fails
the test is refused with the reason.
"""

import contextlib
import weakref

from .. import checking, describe, outcome, parts, splitting, tree
from .base import Knob

LOOKS = 3  # first optimizer steps before which outputs in waiting are computed, should the script look later
# On CUDA the labels are looked at for a new pattern in the first calls and then now and then: it waits for
# the device.
FIRST = 16
EVERY = 64
MANY_ROOTS = 4
MANY_CALLS = 64  # calls with outputs in waiting that are remembered between two steps


class Accumulation(Knob):
    name = "accumulation"
    layer = 10
    per_root = True
    learns = True  # the tests of its rules cost several calls of the model

    def __init__(self, session, wanted, way):
        super().__init__(session, wanted, way)
        # Who else accumulates is read back from the first step, which the first call does not show yet.
        self.per_root = self.acts
        self.states = {}  # id of a Root -> _State
        self.waiting = []  # outcomes of the step under way
        self.steps = 0
        self.handle = None
        self.classes = None

    @classmethod
    def turns_between_steps(cls, _value):
        return True

    def start(self):
        if self.acts and self.wanted > 1:
            self.classes = outcome.Classes(self.torch)
            self.resume()

    def resume(self):
        from torch.optim.optimizer import register_optimizer_step_pre_hook

        before = self.session.guard("accumulation before step")(self._before_step)
        self.handle = register_optimizer_step_pre_hook(lambda *_: before())

    def undo(self):
        self.states.clear()
        self.pause()

    def pause(self):
        self.waiting = []
        if self.handle is not None:
            self.handle.remove()
            self.handle = None

    # Before the first call.

    def requires(self, root, args, kwargs):
        if self.wanted == 1:
            return None
        module, torch = root.module, self.torch
        if len(self.session.roots.roots) > MANY_ROOTS:
            return "the script calls parts of its model one by one"
        ours = self._strategy(root)
        wrapper = describe.distributed(module) if ours is None else None
        if wrapper is not None:
            return "%s expects one backward for each forward" % wrapper
        if describe.has_batch_norm(module, torch):
            return "BatchNorm in training mode would normalise with smaller batches"
        if any("LBFGS" in name for name in self.session.detect.optimizers):
            return "LBFGS computes the loss several times a step"
        if self.session.detect.double_backward:
            return "the script differentiates twice"
        if ours is not None:
            return None  # it has looked at the script's hooks; there are others now
        for m in module.modules():
            if _watches(m._forward_hooks) or m._backward_hooks or m._backward_pre_hooks:
                return "%s has hooks that would see parts of the batch" % type(m).__name__
        return None

    def apply(self, root, args, kwargs):
        state = self.states[id(root)] = _State(root)
        strategy = self._strategy(root)
        if strategy is not None:
            state.sharding = strategy.sharding
            leaves = splitting.tensor_leaves(args, kwargs, self.torch)
            state.rules[splitting.signature(leaves)] = strategy.sharing.rule

    def _strategy(self, root):
        """The knob that shares out this root's batches among several processes, or None."""
        strategy = self.session.strategy
        return strategy if strategy is not None and strategy.root is root else None

    # In the root's call.

    def around(self, root, call, args, kwargs):
        torch = self.torch
        state = self.states.get(id(root))
        if state is None or self.reason is not None or self.wanted == 1 or not torch.is_grad_enabled():
            return call(*args, **kwargs)
        if torch._C._functorch.peek_interpreter_stack() is not None:
            return call(*args, **kwargs)
        try:
            rule = self._rule(state, args, kwargs)
        except checking.Refused as why:
            self.refuse("%s: %s" % (root.name, why))
            return call(*args, **kwargs)
        batch = rule.batch(args, kwargs) if rule is not None else None
        if batch is None or batch < 2:
            return call(*args, **kwargs)  # a last batch of one sample
        if state.at_once and rule.scalars():
            done, output = self._at_once(root, state, rule, call, args, kwargs)
            if done:
                return output
            if self.reason is not None:
                return call(*args, **kwargs)
        return self._checkpointed(root, state, rule, call, args, kwargs)

    def _rule(self, state, args, kwargs):
        leaves = splitting.tensor_leaves(args, kwargs, self.torch)
        key = splitting.signature(leaves)
        rule = state.rules.get(key)
        if rule is not None and (
            leaves[0][1].device.type == "cpu" or state.calls < FIRST or state.calls % EVERY == 0
        ):
            cut = self._cut(rule, args, kwargs)
            if rule.untested(cut):
                rule = None
        if rule is None:
            if state.sharding is not None:
                return None  # a sharded model cannot be tried with a few samples
            rule = checking.find_rule(state.root.module, args, kwargs, self.wanted, self.torch)
            state.rules[key] = rule
        state.calls += 1
        return rule

    def _cut(self, rule, args, kwargs):
        start, cut = 0, []
        for size in splitting.part_sizes(rule.batch(args, kwargs) or 1, self.wanted):
            cut.append(
                splitting.pick(args, kwargs, rule.paths, lambda leaf, s=start, n=size: leaf.narrow(0, s, n))
            )
            start += size
        return cut

    def _at_once(self, root, state, rule, call, args, kwargs):
        """(True, output), or (False, None) where the outputs do not allow it."""
        torch = self.torch
        before = parts.random_state(torch)
        if state.sharding is None:
            whole = parts.Call(root, call, rule, args, kwargs, self.wanted, torch)
        else:
            from ..ranks import micro

            whole = micro.ShardedCall(root, call, rule, args, kwargs, self.wanted, state.sharding)
        losses = state.losses or first_losses(rule)
        result = outcome.Outcome(whole, losses, self._scale(), state.kept)
        result.looked_at, result.asked_gradient = state.looked_at(self), state.asked_gradient(self)
        start = None if state.parts else (torch.zeros(1, requires_grad=True) * 1).grad_fn
        try:
            done = result.run(start)
        except outcome.Outside:
            done = False
        except outcome.Unjoinable as error:
            self.refuse("%s: %s cannot be put together from parts" % (root.name, error))
            done = False
        if not done:
            state.at_once = False
            parts.restore_random_state(torch, before)
            return False, None
        state.parts = len(whole.sizes)
        state.most = max(state.most, state.parts)
        state.how = "in the call of %s; the gradient of each is taken at once%s" % (
            root.name,
            ", " + rule.counter.text() if rule.counter else "",
        )
        output = result.output(self.classes)
        if self.steps < LOOKS or any(path in state.kept for path in result.late):
            # Weak: it lives as long as the script holds an output in waiting.
            self.waiting = [*self.waiting[-MANY_CALLS:], (weakref.ref(result), state)]
        return True, output

    def _scale(self):
        """Under fp16 the scale must be inside: afterwards small gradients are gone."""
        return self.session.detect.gradient_scale()

    def _checkpointed(self, root, state, rule, call, args, kwargs):
        torch = self.torch
        other = [tree.path_text(path) for path, word in rule.outputs.items() if word == "other"]
        if other:
            self.refuse("%s: %s cannot be put together from parts" % (root.name, other[0]))
            return call(*args, **kwargs)
        cut = self._cut(rule, args, kwargs)
        sizes = splitting.part_sizes(rule.batch(args, kwargs), self.wanted)
        with _to_the_end(state, torch):
            outputs = [self.session.detect.checkpoints.run_any(call, a, k) for a, k in cut]
        weights = {path: rule.weights(rule.outputs[path], cut, sizes) for path in rule.scalars()}
        found = [dict(tree.leaves(output)) for output in outputs]

        def join(path, leaf):
            word = rule.outputs[path]
            if word == "cat":
                return torch.cat([one[path] for one in found])
            if path in weights:
                return sum(one[path] * w for one, w in zip(found, weights[path]) if w)
            return leaf

        state.parts = len(sizes)
        state.most = max(state.most, state.parts)
        state.how = "in the call of %s; each is computed again in the backward pass" % root.name
        return tree.rebuild(outputs[0], join)

    # Outputs in waiting.

    def _before_step(self):
        """What the script may look at after the step is computed before it."""
        self.steps += 1
        waiting, self.waiting = self.waiting, []
        for reference, state in waiting:
            result = reference()
            for source in result.unlooked() if result is not None else ():
                if self.steps <= LOOKS or source.path in state.kept:
                    source.compute()

    def not_twice(self):
        return "the script differentiates twice" if self.acts and self.wanted > 1 else None

    # Reading back.

    def verify(self):
        if self.wanted == 1:
            self.how = "the batch is not split"
            return 1
        if self.way == "framework" and self.session.mode == "run":
            return self.session.frameworks.read(self.name)[0]  # nobody counts calls of backward there
        if not self.acts:
            return self._read_calls()
        used = [state for state in self.states.values() if state.most]
        self.objects = len(used)
        if not used:
            self.reason = "no batch was split"
            return None
        self.how = "%d micro-batches " % used[0].most + "; ".join(state.how for state in used)
        least = min(state.most for state in used)
        if least < self.wanted:
            self.reason = "the batch has %d samples" % least
            return None
        return least

    def _read_calls(self):
        """The script accumulates by itself: how much more than without the setting."""
        calls, own = self.session.detect.backwards_per_step(), self.session.plan.script_accumulation
        if self.way == "framework":
            own = self.session.frameworks.own_accumulation
        self.objects = 1
        self.how = "%d backward calls for each optimizer step" % calls
        if own > 1:
            self.how += ", %d of them without the setting" % own
        if calls == 0 or calls % own:
            self.reason = "%d backward calls are made for each optimizer step" % calls
            return None
        return calls // own


def _watches(hooks):
    """Whether a hook may see that the batch comes in parts.

    That of transformers, which makes the embedding's output require a gradient, does not care.
    """
    return any("enable_input_require_grads" not in getattr(h, "__qualname__", "") for h in hooks.values())


def _to_the_end(state, torch):
    """A sharded model is put together and taken apart around its forward, which must not end half-way."""
    if state.sharding is None:
        return contextlib.nullcontext()
    return torch.utils.checkpoint.set_checkpoint_early_stop(False)


class _State:
    """What was found about one root."""

    def __init__(self, root):
        self.root = root
        self.rules = {}
        self.sharding = None  # of a root whose parameters `strategy` has sharded
        self.calls = 0
        self.at_once = True
        self.losses = None  # outputs whose gradient is taken, once the script has shown which it uses
        self.kept = set()  # outputs that the script looks at
        self.parts = 0
        self.most = 0
        self.how = ""

    def looked_at(self, knob):
        def note(path, too_late):
            self.kept.add(path)
            if too_late:
                knob.session.fault(
                    "accumulation",
                    RuntimeError(
                        "%s of %s was read after the parameters had changed and computed with the new ones"
                        % (tree.path_text(path), self.root.name)
                    ),
                )

        return note

    def asked_gradient(self, knob):
        def note(path):
            # From the next call on without taking gradients at once: they come through outputs of the whole
            # batch.
            self.at_once = False

        return note


def first_losses(rule):
    """The output that backward is most likely called on: one that is called a loss, else the first scalar."""
    scalars = rule.scalars()
    named = [path for path in scalars if path and "loss" in str(path[-1]).lower()]
    return (named or scalars)[:1]
