"""The loss that `backward` is called on.

Values on a device are copied without waiting and read when the step is known to be over: nothing here makes
the host wait for the device.
"""

import weakref

from . import imports, patches

# Calls of backward without any optimizer step after which a built optimizer is taken for unused.
PATIENCE = 512


def install(session):
    """Wraps `torch.autograd.backward`, which `Tensor.backward` calls too, once torch is there."""
    session.losses = Losses(session)
    session.stepper.take.append(session.losses.take)
    session.stepper.settle_fields.append(session.losses.settle)
    imports.on_import("torch", session.losses.ready)


class Losses:
    """See the head of this file."""

    def __init__(self, session):
        self.session = session
        self.backwards = 0  # outermost calls so far
        self._in_step = False  # the latest was made inside an optimizer's step
        self._torch = None
        self._depth = 0
        self._values = []  # of this step
        self._scaled = {}  # id of a scaled loss -> (weak reference to it, the loss before)
        self._scalers = weakref.WeakSet()

    def ready(self, torch):
        """Puts the wrappers in place."""
        self._torch = torch
        patches.replace(torch.autograd, "backward", self._make_backward)
        scaler = getattr(getattr(torch, "amp", None), "GradScaler", None) or torch.cuda.amp.GradScaler
        patches.replace(scaler, "scale", self._make_scale)

    # Backward

    def _make_backward(self, original):
        session = self.session
        before = session.guard("backward")(self._before_backward)
        after = session.guard("backward")(self._after_backward)
        outermost = self._torch._C._current_graph_task_id

        def backward(tensors, *args, **kwargs):
            # A backward inside backward is a checkpoint's recompute.
            if self._depth or outermost() != -1 or session.state == "silent":
                return original(tensors, *args, **kwargs)
            before(tensors, args, kwargs)
            self._depth += 1
            try:
                result = original(tensors, *args, **kwargs)
            except BaseException as error:
                session.ooms.seen(error)
                raise
            finally:
                self._depth -= 1
            after()
            return result

        return backward

    def _before_backward(self, tensors, args, kwargs):
        if not self.session.claim():
            return
        self.session.stepper.begun()
        self.session.inference.stop()
        self.session.phase = "train"
        for hook in self.session.backward_hooks:
            hook(tensors, kwargs)
        if not (self._in_step and self.session.stepper.in_step()):
            self.backwards += 1  # the same batch again in a closure (LBFGS) is not accumulation
        self._in_step = self.session.stepper.in_step()
        many = (tensors,) if isinstance(tensors, self._torch.Tensor) else tuple(tensors)
        if args and args[0] is not None or kwargs.get("grad_tensors") is not None:
            return  # a gradient from outside: not a loss
        for tensor in many:
            if isinstance(tensor, self._torch.Tensor) and tensor.numel() == 1:
                self._values.append(self.fetch(self._unscaled(tensor)))

    def _after_backward(self):
        self.session.norms.after_backward()
        stepper = self.session.stepper
        if not self.session.optimizers or (stepper.source != "optimizer" and self.backwards > PATIENCE):
            stepper.ended("backward")

    def fetch(self, tensor):
        """The value, without waiting for a device: a number, or a copy that is on its way to the host."""
        if tensor.is_cpu:
            return tensor.item()
        return tensor.detach().to("cpu", non_blocking=True)

    # Scaled losses

    def scaled(self, result, loss):
        """`result` is `loss` times a gradient scale: `loss` is what counts."""
        if isinstance(result, self._torch.Tensor) and result.numel() == 1:
            self._scaled = {k: v for k, v in self._scaled.items() if v[0]() is not None}
            self._scaled[id(result)] = (weakref.ref(result), loss.detach())

    def _unscaled(self, tensor):
        known = self._scaled.pop(id(tensor), None)
        return known[1] if known is not None and known[0]() is tensor else tensor

    def _make_scale(self, original):
        note = self.session.guard("gradient scaler")(self._note_scale)

        def scale(scaler, outputs):
            result = original(scaler, outputs)
            note(scaler, outputs, result)
            return result

        return scale

    def _note_scale(self, scaler, outputs, result):
        self._scalers.add(scaler)
        if isinstance(outputs, self._torch.Tensor) and result is not outputs:
            self.scaled(result, outputs)

    def scale_in_gradients(self, optimizer):
        """The scale that a GradScaler has left in the gradients, None once they are unscaled."""
        for scaler in list(self._scalers):
            if not scaler.is_enabled():
                continue  # it has no states at all
            state = scaler._per_optimizer_states.get(id(optimizer))
            stage = getattr((state or {}).get("stage"), "name", "READY")
            if stage == "READY" and scaler._scale is not None:
                return scaler._scale
        return None

    # The step

    def take(self, fields):
        """Moves what this step has shown into its record."""
        fields["loss"] = self._values or None
        self._values = []
        self._in_step = False

    def settle(self, fields):
        """The device has finished: copies become numbers."""
        if fields["loss"] is not None:
            fields["loss"] = sum(float(v) for v in fields["loss"])
