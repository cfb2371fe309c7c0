"""The gradient norm before clipping, and that of what the optimizer takes, in the first steps.

Clipping hides a loss that is several times too large: the norm before it is the one that tells, taken after
each outermost backward (reduction among ranks is part of it) and once more where a clipping function of torch
is called, since a script may scale or reduce its gradients between the two.  The norm that the optimizer
takes tells whether the script's clipping is still in force.  Both are without a gradient scale.
"""

from . import imports, patches
from .updates import parameters_of

# Accelerate, Lightning and Trainer call these through their modules, too.
_CLIPPING = ("clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_")


def install(session):
    """Does nothing where no step is to be compared."""
    session.norms = Norms(session)
    if session.plan.parity_steps <= 0:
        return
    session.stepper.take.append(session.norms.take)
    session.stepper.settle_fields.append(session.norms.settle)
    imports.on_import("torch", session.norms.ready)


class Norms:
    """See the head of this file."""

    def __init__(self, session):
        self.session = session
        self._torch = None
        self._arrived = {}  # optimizer id -> square of the norm after the latest backward
        self._before = {}  # optimizer id -> square of the norm before clipping, this step
        self._taken = {}  # optimizer id -> square of the norm that it takes, this step
        self._undo_clips = []

    def ready(self, torch):
        """Watches the clipping functions."""
        self._torch = torch
        if self.session.plan.parity_steps <= 0:
            return
        for name in _CLIPPING:
            for owner in (torch.nn.utils.clip_grad, torch.nn.utils):
                if hasattr(owner, name):  # the last one came with torch 2.6
                    self._undo_clips.append(patches.replace(owner, name, self._make_clip))

    def wanted(self):
        """Whether this step's norms are to be recorded."""
        return self.session.steps < self.session.plan.parity_steps

    # Moments

    def after_backward(self):
        """Called by losses.py after each outermost backward."""
        if not self.wanted():
            return
        for reference in self.session.optimizers:
            optimizer = reference()
            if optimizer is not None:
                if id(optimizer) not in self._taken:
                    self._before.pop(id(optimizer), None)  # clipped, but a loss scaler skipped the step
                self._arrived[id(optimizer)] = self._square(optimizer, self._scale_of(optimizer))

    def _make_clip(self, original):
        before = self.session.guard("clipping")(self._before_clip)

        def clip(parameters, *args, **kwargs):
            if isinstance(parameters, self._torch.Tensor):
                parameters = [parameters]
            elif not isinstance(parameters, (list, tuple)):
                parameters = list(parameters)  # a generator can be read only once
            before(parameters)
            return original(parameters, *args, **kwargs)

        return clip

    def _before_clip(self, parameters):
        if self.session.state != "training" or not self.wanted():
            return
        ids = {id(p) for p in parameters}
        for reference in self.session.optimizers:
            optimizer = reference()
            if optimizer is None or id(optimizer) in self._before:
                continue
            if any(id(p) in ids for p in parameters_of(optimizer)):
                self._before[id(optimizer)] = self._square(optimizer, self._scale_of(optimizer))

    def before_update(self, optimizer):
        """Called by steps.py before an optimizer's step."""
        key = id(optimizer)
        if not self.wanted() or key in self._taken:
            return
        # Fused optimizers unscale inside the step, and GradScaler leaves them the scale.
        self._taken[key] = self._square(optimizer, getattr(optimizer, "grad_scale", None))
        arrived = self._arrived.pop(key, None)
        if key not in self._before:
            self._before[key] = self._taken[key] if arrived is None else arrived

    # Measuring

    def _scale_of(self, optimizer):
        return self.session.losses.scale_in_gradients(optimizer)

    def _square(self, optimizer, scale):
        """The square of the norm on the parameters' device; None without gradients."""
        torch = self._torch
        total = None
        with torch.no_grad():
            for parameter in parameters_of(optimizer):
                gradient = parameter.grad
                if gradient is None:
                    continue
                if gradient.is_sparse:
                    gradient = gradient.coalesce()._values()
                # Wider for half precision, never narrower: torch refuses that for double.
                wide = torch.promote_types(gradient.dtype, torch.float32)
                norm = torch.linalg.vector_norm(gradient, dtype=wide)
                if hasattr(norm, "full_tensor"):
                    norm = norm.full_tensor()  # of all ranks' parts; all ranks ask for it
                square = norm.double() ** 2
                total = square if total is None else total + square.to(total.device)
            if total is not None and scale is not None:
                total = total / torch.as_tensor(scale).to(total.device).double() ** 2
        return total

    # The step

    def take(self, fields):
        """Moves what this step has shown into its record."""
        fetch = self.session.losses.fetch
        for name, squares in (("grad_norm", self._before), ("taken_norm", self._taken)):
            fields[name] = [fetch(s) for s in squares.values() if s is not None] or None
        self._arrived, self._before, self._taken = {}, {}, {}
        if self._undo_clips and self.session.steps + 1 >= self.session.plan.parity_steps:
            for undo in self._undo_clips:
                undo()
            self._undo_clips = []

    def settle(self, fields):
        """The device has finished: copies become numbers."""
        for name in ("grad_norm", "taken_norm"):
            if fields[name] is not None:
                fields[name] = sum(float(v) for v in fields[name]) ** 0.5
