"""Training, evaluation and saving, told apart by what the script does.

Evaluation: root calls without gradients, either of a root in eval mode or several in a row.  (A single call
without gradients of a root in training mode is part of training: a GAN's fakes, a momentum teacher.)  Saving:
a call of `torch.save`, safetensors or torch.distributed.checkpoint.
"""

import sys
import time

from . import imports, patches

_IN_A_ROW = 3
_TOLD = 200  # phases told; a script that alternates at every step would flood the channel

_SAVERS = (
    ("torch", "torch.serialization", "save"),
    ("torch", "torch", "save"),
    ("safetensors.torch", "safetensors.torch", "save_file"),
    ("safetensors.torch", "safetensors.torch", "save_model"),
    ("torch.distributed.checkpoint", "torch.distributed.checkpoint", "save"),
    (
        "torch.distributed.checkpoint.state_dict_saver",
        "torch.distributed.checkpoint.state_dict_saver",
        "save",
    ),
)


def install(session):
    """Watches root calls and the functions that save."""
    session.phases = Phases(session)
    session.root_calls.insert(0, session.phases)
    for trigger, owner, name in _SAVERS:
        imports.on_import(trigger, session.phases.patcher(owner, name))


class Phases:
    """See the head of this file."""

    def __init__(self, session):
        self.session = session
        self.evals = 0
        self.saves = 0
        self._eval = None  # [start, calls] while it lasts
        self._row = 0
        self._saving = False
        self._told = 0
        self.listeners = []  # functions(phase) called where one phase ends and another begins

    def before(self, root, _args, _kwargs):
        """Root calls: with gradients it is training, without it may be evaluation."""
        if self.session.roots.serving:
            return
        if self.session.torch.is_grad_enabled():
            self._row = 0
            self.session.phase = "train"
            if self._eval is not None:
                self._end_eval()
            return
        self._row += 1
        if self._eval is not None:
            self._eval[1] += 1
        elif not root.training or self._row >= _IN_A_ROW:
            self._changes("eval")
            self._eval = [time.perf_counter(), self._row if root.training else 1]
            self.evals += 1
            self._tell("eval", None, 0)
        if self._eval is not None:
            self.session.phase = "eval"

    def _end_eval(self):
        start, calls = self._eval
        self._eval = None
        self._changes("train")
        self._tell("eval", time.perf_counter() - start, calls)

    def finish(self):
        """The script is over, or a training step follows without a root call: evaluation has ended."""
        if self._eval is not None:
            self._end_eval()

    def _changes(self, phase):
        for listener in self.listeners:
            listener(phase)

    def _tell(self, phase, seconds, count):
        if self._told < _TOLD:
            self._told += 1
            self.session.emit("phase", phase=phase, seconds=seconds, count=count)

    # Saving

    def patcher(self, owner, name):
        """A callback that wraps `owner.name`, where the module has it."""

        def patch(_module):
            module = sys.modules.get(owner)
            if module is not None and hasattr(module, name):
                patches.replace(module, name, self._make)

        return patch

    def _make(self, original):
        session = self.session
        begin = session.guard("save")(self._begin_save)
        end = session.guard("save")(self._end_save)

        def save(*args, **kwargs):
            if self._saving or session.state != "training":
                return original(*args, **kwargs)
            begun = begin()
            try:
                return original(*args, **kwargs)
            except BaseException as error:
                ooms = getattr(session, "ooms", None)  # trials only
                if ooms is not None:
                    ooms.seen(error)
                raise
            finally:
                end(begun)

        return save

    def _begin_save(self):
        self._saving = True
        self._changes("save")
        previous, self.session.phase = self.session.phase, "save"
        self._tell("save", None, 0)
        return previous, time.perf_counter()

    def _end_save(self, begun):
        self._saving = False
        if begun is not None:
            self.session.phase = begun[0]
            self.saves += 1
            self._tell("save", time.perf_counter() - begun[1], 1)
