"""The gradient scaler of `amp=fp16`, without edits: `torch.amp.GradScaler` around the script's own loop.

Gradients are scaled only while autograd is at work.  `torch.autograd.backward`, which `Tensor.backward`
calls, begins with the loss times the scale, and when it has ended all gradients are divided by the scale at
once: a script that clips them, takes their norm or adds up those of several calls sees what it would see
without.
Gradients that are there before (accumulation) are multiplied by the scale first, so that both kinds add up;
the scale is a power of two, so this rounds nothing.

What is not finite then belongs to the optimizers whose parameters it hit: the next `step()` of each of them
does nothing, and the scale becomes smaller.  It is updated once before the next call of a model or of
backward, from all optimizers that have stepped since, and grows and shrinks as GradScaler's does.
"""

import functools
import weakref

from .. import patches
from ..updates import parameters_of

WALKS = 8  # first backward calls whose graph is searched for leaves that no model or optimizer holds


class Scaling:
    """See the head of this file."""

    def __init__(self, knob):
        self.knob = knob
        self.session = knob.session
        self.torch = knob.session.torch
        self.scaler = None
        self.on = False
        self.depth = 0
        self.calls = 0
        self.skipped = 0
        self.others = []  # weak references to leaves that no model and no optimizer holds
        self.hooked = {}  # id of a leaf divided before the script's own hooks see it -> weak reference
        self.found = {}  # id of an optimizer -> (weak reference, {device: found_inf})
        self.stepped = {}  # the same of those that have stepped since the last update
        self.undo_patches = []

    # Putting it in place.

    def start(self):
        """Before the script builds anything; nothing happens until a root is called."""
        torch, guard = self.torch, self.session.guard
        self._watch = guard("fp16: watching hooks")
        replaced = [
            (torch.autograd, "backward", self._make_backward),
            (torch.autograd, "grad", self._make_grad),
            (torch.optim.Optimizer, "profile_hook_step", self._make_profile_hook_step),
            (torch.optim.Optimizer, "zero_grad", self._make_zero_grad),
            (torch.Tensor, "register_hook", self._make_register_hook),
            (torch.Tensor, "retain_grad", self._make_retain_grad),
            (torch.nn.Module, "zero_grad", self._make_zero_grad),
        ]
        clip = torch.nn.utils.clip_grad
        replaced += [(owner, "clip_grad_norm_", self._make_clip) for owner in (clip, torch.nn.utils)]
        self.undo_patches = [patches.replace(*entry) for entry in replaced]

    def switch_on(self, device):
        """A root on this kind of device computes in fp16 from now on."""
        if self.on:
            return
        self.on = True
        with self.session.detect.our_scaler():
            self.scaler = self.torch.amp.GradScaler(device)
        self.scaler._lazy_init_scale_growth_tracker(self.torch.device(device))

    def stop(self):
        """No scaling from now on; patches go when nothing of theirs is under way."""
        self.on = False

    def undo(self):
        """Gives everything back."""
        self.on = False
        for undo in reversed(self.undo_patches):
            undo()
        self.undo_patches = []

    # The scale.

    def value(self):
        """The scale as a number; 1 while there is none."""
        return float(self.scaler.get_scale()) if self.on else 1.0

    def settle(self):
        """Updates the scale from all optimizers that have stepped since the last time."""
        if not self.stepped:
            return
        states = self.scaler._per_optimizer_states
        for key, (_, found) in self.stepped.items():
            states[key]["found_inf_per_device"] = found
        self.stepped = {}
        self.scaler.update()

    def _on(self, tensor):
        """The scale on the device of a tensor."""
        scale = self.scaler._scale
        return scale if scale.device == tensor.device else scale.to(tensor.device)

    def _inverse(self):
        return self.scaler._scale.double().reciprocal().float()

    # Backward.

    def _passes(self):
        """Whether a backward call is not the script's own outermost one."""
        return (
            not self.on
            or self.depth > 0
            or self.session.roots.inside()
            or self.torch._C._current_graph_task_id() != -1
        )

    def _make_backward(self, original):
        def backward(tensors, grad_tensors=None, *args, **kwargs):
            if self._passes():
                return original(tensors, grad_tensors, *args, **kwargs)
            self.settle()
            single = isinstance(tensors, self.torch.Tensor)
            many = (tensors,) if single else tuple(tensors)
            given = kwargs.pop("grad_variables", None) if grad_tensors is None else grad_tensors
            if given is None or isinstance(given, self.torch.Tensor):
                given = (given,) * len(many)
            scaled = [self._scaled(t, g) for t, g in zip(many, given)]
            leaves = self._guarded(self._before, many)
            if leaves is None:
                return original(tensors, grad_tensors, *args, **kwargs)
            self.depth += 1
            try:
                result = original([t for t, _ in scaled], [g for _, g in scaled], *args, **kwargs)
            finally:
                self.depth -= 1
                self._guarded(self._after, leaves)
            return result

        return backward

    def _guarded(self, function, value):
        """A fault of ours never reaches the script, unless production would go on with wrong gradients."""
        try:
            return function(value)
        except Exception as error:
            self.session.fault("fp16", error)
            self.knob.refuse("the agent failed: %s: %s" % (type(error).__name__, error))
            if self.session.mode == "run":
                raise
            return None

    def _scaled(self, tensor, gradient):
        """What backward is called with: the loss times the scale, or the upstream gradient times it."""
        if gradient is not None:
            return tensor, gradient * self._on(gradient).to(gradient.dtype)
        if tensor.numel() != 1:
            return tensor, None  # an error of the script, which torch names
        product = tensor * self._on(tensor)
        losses = getattr(self.session, "losses", None)
        if losses is not None:
            losses.scaled(product, tensor)
        return product, None

    def _leaves(self, tensors):
        """All leaves that may get a gradient, each once."""
        self.calls += 1
        seen = {}
        for optimizer in list(self.session.roots.optimizers):
            seen.update((id(p), p) for p in parameters_of(optimizer))
        for root in self.session.roots.roots:
            module = root.module
            if module is not None:
                seen.update((id(p), p) for p in module.parameters())
        self.others = [r for r in self.others if r() is not None]
        seen.update((id(r()), r()) for r in self.others)
        # The walk costs a microsecond a node: the first calls, then now and then.
        if self.calls <= WALKS or self.calls & (self.calls - 1) == 0:
            for leaf in self._reached(tensors):
                if id(leaf) not in seen:
                    seen[id(leaf)] = leaf
                    self.others.append(weakref.ref(leaf))
        return [leaf for leaf in seen.values() if leaf.requires_grad]

    def _reached(self, tensors):
        found, nodes = set(), set()
        stack = [t.grad_fn for t in tensors if t.grad_fn is not None]
        leaves = []
        while stack:
            node = stack.pop()
            if node is None or node in nodes:
                continue
            nodes.add(node)
            leaf = getattr(node, "variable", None)
            if leaf is not None and id(leaf) not in found:
                found.add(id(leaf))
                leaves.append(leaf)
            stack.extend(following for following, _ in node.next_functions)
        return leaves

    def _before(self, tensors):
        """Gradients that are there already are scaled too, so that the new ones can be added to them."""
        leaves, present = self._leaves(tensors), []
        for leaf in leaves:
            if self._has_hooks(leaf):
                self._hook(leaf)
            if leaf.grad is not None and not self._is_hooked(leaf):
                present.append(_values(leaf.grad))
        if present:
            with self.torch.no_grad():
                for alike in _by_kind(present):
                    self.torch._foreach_mul_(alike, self._on(alike[0]).to(alike[0].dtype))
        return leaves

    def _has_hooks(self, leaf):
        """Whether the script looks at this leaf's gradient during backward."""
        if not leaf._backward_hooks and not leaf._post_accumulate_grad_hooks:
            return False
        # What ranks average is looked at afterwards: all of them must find the same not to be finite.
        reducer = getattr(self.session.strategy, "reducer", None)
        return reducer is None or not reducer.is_alone_at(leaf)

    def _is_hooked(self, leaf):
        known = self.hooked.get(id(leaf))
        return known is not None and known() is leaf

    def _hook(self, leaf):
        """The script's own hooks on this leaf see its gradient divided: ours comes first."""
        if self._is_hooked(leaf):
            return
        reference, inverse = weakref.ref(leaf), self._inverse

        def unscale(gradient):
            if not self.depth:
                return None
            divided = gradient * inverse().to(gradient.device)
            self._note_hooked(reference(), divided)
            return divided

        handle = self._plain_register_hook(leaf, unscale)
        # Autograd goes through the plain dict below, whose order is that of insertion.
        hooks = leaf._backward_hooks
        theirs = [(key, hook) for key, hook in hooks.items() if key != handle.id]
        hooks.clear()
        hooks[handle.id] = unscale
        hooks.update(theirs)
        self.hooked[id(leaf)] = reference

    def _note_hooked(self, leaf, gradient):
        found = self.torch.full((), 0.0, dtype=self.torch.float32, device=gradient.device)
        one = self.torch.ones((), dtype=self.torch.float32, device=gradient.device)
        copy = _values(gradient).detach().clone()
        self.torch._amp_foreach_non_finite_check_and_unscale_([copy], found, one)
        for optimizer in list(self.session.roots.optimizers):
            if any(p is leaf for p in parameters_of(optimizer)):
                self._add(optimizer, {gradient.device: found})

    def _after(self, leaves):
        """All gradients divided by the scale, and what is not finite noted for its optimizer."""
        inverse = self._inverse()
        rest = {id(leaf): leaf for leaf in leaves if leaf.grad is not None and not self._is_hooked(leaf)}
        for optimizer in list(self.session.roots.optimizers):
            mine = [rest.pop(id(p)) for p in parameters_of(optimizer) if id(p) in rest]
            if mine:
                self._add(optimizer, self._unscale(mine, inverse))
        if rest:
            self._unscale(list(rest.values()), inverse)

    def _unscale(self, leaves, inverse):
        found = self.torch.full((), 0.0, dtype=self.torch.float32, device=inverse.device)
        return self.scaler._unscale_grads_(_Parameters(leaves), inverse, found, True)

    def _add(self, optimizer, found):
        known = self.found.setdefault(id(optimizer), (weakref.ref(optimizer), {}))[1]
        for device, flag in found.items():
            known[device] = flag if device not in known else self.torch.maximum(known[device], flag)

    def _make_grad(self, original):
        def grad(outputs, inputs, grad_outputs=None, *args, **kwargs):
            create = kwargs.get("create_graph") or (len(args) > 1 and args[1])
            batched = kwargs.get("is_grads_batched")
            if self._passes() or create or batched:
                return original(outputs, inputs, grad_outputs, *args, **kwargs)
            self.settle()
            many = (outputs,) if isinstance(outputs, self.torch.Tensor) else tuple(outputs)
            given = grad_outputs
            if given is None or isinstance(given, self.torch.Tensor):
                given = (given,) * len(many)
            scaled = [self._scaled(t, g) for t, g in zip(many, given)]
            self.depth += 1
            try:
                found = original([t for t, _ in scaled], inputs, [g for _, g in scaled], *args, **kwargs)
            finally:
                self.depth -= 1
            asked = (inputs,) if isinstance(inputs, self.torch.Tensor) else tuple(inputs)
            return tuple(
                g if g is None or self._is_hooked(leaf) else g * self._inverse().to(g.device)
                for g, leaf in zip(found, asked)
            )

        return grad

    # The step.

    def _make_profile_hook_step(self, original):
        def profile_hook_step(step):
            @functools.wraps(step)
            def scaled_step(optimizer, *args, **kwargs):
                return self._step(step, optimizer, args, kwargs)

            return original(scaled_step)

        return staticmethod(profile_hook_step)

    def _step(self, step, optimizer, args, kwargs):
        known = self.found.pop(id(optimizer), None)
        if not self.on or known is None or known[0]() is not optimizer:
            return step(optimizer, *args, **kwargs)
        found = known[1]
        self.stepped[id(optimizer)] = known
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            # A fused kernel looks at the flag by itself, so that the host need not wait for the device.
            device = self.scaler._scale.device
            optimizer.grad_scale = None
            optimizer.found_inf = sum(flag.to(device, non_blocking=True) for flag in found.values())
            try:
                return step(optimizer, *args, **kwargs)
            finally:
                del optimizer.grad_scale, optimizer.found_inf
        if any(flag.item() for flag in found.values()):
            self.skipped += 1
            return None
        return step(optimizer, *args, **kwargs)

    def _make_zero_grad(self, original):
        """What overflowed is gone when the gradients are: another model's backward may have left it."""

        def zero_grad(owner, *args, **kwargs):
            result = original(owner, *args, **kwargs)
            if self.on and self.found:
                self._watch(self._forget)(owner)
            return result

        return zero_grad

    def _forget(self, owner):
        if id(owner) in self.found:
            del self.found[id(owner)]
            return
        if not isinstance(owner, self.torch.nn.Module):
            return
        cleared = {id(p) for p in owner.parameters()}
        for key, (reference, _) in list(self.found.items()):
            optimizer = reference()
            groups = optimizer.param_groups if optimizer is not None else ()
            if all(id(p) in cleared for group in groups for p in group["params"]):
                del self.found[key]

    # What the scale would change behind the script's back.

    def _make_register_hook(self, original):
        self._plain_register_hook = original

        def register_hook(tensor, hook):
            # FSDP's only tell it that backward has come there.
            theirs = not (getattr(hook, "__module__", None) or "").startswith("torch.distributed.fsdp")
            outside = self.torch._C._current_graph_task_id() == -1
            if self.on and theirs and outside and not tensor.is_leaf:
                self.knob.refuse("a hook of the script on a gradient inside would see it scaled")
            return original(tensor, hook)

        return register_hook

    def _make_retain_grad(self, original):
        def retain_grad(tensor):
            if self.on and not tensor.is_leaf:
                self.knob.refuse("the script reads a gradient inside, which is scaled")
            return original(tensor)

        return retain_grad

    def _make_clip(self, original):
        def clip_grad_norm_(parameters, max_norm, norm_type=2.0, error_if_nonfinite=False, *args, **kwargs):
            if self.on and error_if_nonfinite:
                self.knob.refuse(
                    "the script stops at a gradient that is not finite, as fp16 has now and then"
                )
            return original(parameters, max_norm, norm_type, error_if_nonfinite, *args, **kwargs)

        return clip_grad_norm_


class _Parameters:
    """What GradScaler looks at in an optimizer."""

    def __init__(self, parameters):
        self.param_groups = [{"params": parameters}]


def _values(gradient):
    return gradient._values() if gradient.is_sparse else gradient


def _by_kind(tensors):
    """Lists of tensors on one device and of one type."""
    kinds = {}
    for tensor in tensors:
        kinds.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    return kinds.values()
