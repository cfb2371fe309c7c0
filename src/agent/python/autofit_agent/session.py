"""One process's agent: the plan, the channel, and the hooks that other parts hang on.

Who reports
-----------
Every Python process that inherits AUTOFIT_MODE runs `sitecustomize.py`, but only one process a rank reports.

1. From its command line (`roles.py`) a process is *excluded* (torchrun, accelerate's launcher, resource
   tracker, fork server, compile workers, pip: nothing is installed), *launched* (its command line is the
   launched command, or the tail of it behind a launching program), or a *candidate* (any other: children,
   spawned workers, `bash train.sh`).
2. The launched process says `hello` (`training: false`) at its start and creates the file `launched` in the
   trial directory, so that a script that fails before torch is told from one in which the agent could not
   start.
3. A process becomes the one that reports at its first optimizer, its first DistributedDataParallel or its
   first root call with gradients: it creates `claim.<rank>` with O_EXCL and says `hello` (`training: true`).
   Who comes second stays silent, and so does a DataLoader's worker.  Records from before (options,
   frameworks, knobs) are kept until then and follow that hello.
4. Where the launched command names an interpreter, nobody may claim before the launched process has said
   hello.  So under `python -I`, where the agent cannot start, a child `python -c` cannot pose as the main
   process.
5. The launched process also claims at its end or at an out-of-memory error, if nobody has: it came to no
   training.

After a fork the child of a process that reports is silent; the child of one that did not yet report may
claim.

Hooks
-----
`guard(name)` wraps a hook: what it raises becomes a `fault` record, the hook is off from then on, and the
script never sees it.  `root_calls` holds objects with any of the methods below; `root.py` calls them for each
call of a root module outside other modules, inside backward never:

    before(root, args, kwargs)          after(root, args, kwargs, output)          failed(root, error)

`torch.is_grad_enabled()` tells training from evaluation.  `loader_hooks` holds objects with any of

    building(index, site, arguments)    may change the bound arguments of DataLoader.__init__ (a dict)
    built(index, site, loader)

which `loaders.py` calls, `index` being the order of construction.  `backward_hooks` holds functions called
with (tensors, keyword arguments) before each outermost `torch.autograd.backward`.
"""

import os
import sys
import time

from . import VERSION, channel, roles

_KEPT_RECORDS = 4000  # Before the claim; far more than any script's options, loaders and knobs.
_MESSAGE = 2000  # characters of an exception's text

WAITING = "waiting"
TRAINING = "training"
SILENT = "silent"

# What a hook of `on_step` returns when it is needed no more.
DONE = object()

_current = [None]


def current():
    """The session of this process, or None."""
    return _current[0]


class Session:
    """See the head of this file."""

    def __init__(self, plan, role):
        self.plan = plan
        self.mode = plan.mode
        self.reports = plan.mode in ("trial", "watch")  # production tells nothing
        self.device = plan.device
        self.settings = plan.settings
        self.role = role
        self.pid = os.getpid()
        self.started = time.perf_counter()
        self.state = WAITING
        self.phase = "setup"
        self.steps = 0  # Optimizer steps finished.
        self.rank = roles.rank()
        self.knob_reports = {}  # The latest of each knob: requested, effective, how, objects, reason.
        self.faults = []
        self.root_calls = []
        self.loader_hooks = []
        self.backward_hooks = []
        self.options = None  # The script's own options, where they are looked at.
        self.optimizers = []  # Weak references, in the order of construction.
        self.rank_layout = None  # which of several ranks of a plain script this is (ranks/layout.py)
        self.part_of = None  # function(samples of a step): this rank's share, where ranks share out batches
        self.strategy = None  # the knob that shares out a root's batches among several processes
        self._off = set()
        self._kept = []
        self._later = []
        self._channel = None
        self._on_step = []
        self._on_end = []
        self._on_claim = []
        self._on_enough = []
        _current[0] = self
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    # Records

    def emit(self, kind, **fields):
        """Writes a record, or keeps it until this process is known to be the one that trains."""
        if not self.reports or self.state == SILENT:
            return
        record = {
            "v": VERSION,
            "t": kind,
            "at": round(time.perf_counter() - self.started, 6),
            "pid": self.pid,
        }
        record.update(fields)
        if self.state == TRAINING:
            self._write([record])
        elif len(self._kept) < _KEPT_RECORDS:
            self._kept.append(record)

    def oom(self, device, message, fatal):
        """Memory ran out: written from a process that has not trained yet, too."""
        self.claim_for_end()
        message = message[:_MESSAGE]
        self.emit("oom", device=device, phase=self.phase, message=message, step=self.steps, fatal=fatal)

    def record(self, kind):
        """The head of a record for `emit_later`."""
        return {"v": VERSION, "t": kind, "at": self.now(), "pid": self.pid}

    def emit_later(self, records):
        """Like `emit` for records of `record`, written at the next `flush` or `emit`."""
        if self.mode == "trial" and self.state == TRAINING:
            self._later.extend(records)

    def flush(self):
        """Writes what `emit_later` has put by."""
        if self._later and self.state == TRAINING:
            self._write([])

    def now(self):
        """Seconds since the agent started."""
        return round(time.perf_counter() - self.started, 6)

    def knob(self, knob, effective, how, objects=0, reason=None):
        """Reports what became of a knob of the plan."""
        report = {
            "knob": knob,
            "requested": self.settings.get(knob),
            "effective": effective,
            "how": how,
            "objects": objects,
            "reason": reason,
        }
        self.knob_reports[knob] = report
        self.emit("knob", **report)

    def fault(self, hook, error):
        """The agent failed in a hook: it is off from now on, and the trial will not count."""
        self._off.add(hook)
        text = f"{type(error).__name__}: {error}"
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        if trace is not None:
            code = trace.tb_frame.f_code
            text += f" ({os.path.basename(code.co_filename)}:{trace.tb_lineno} in {code.co_name})"
        self.faults.append((hook, text))
        self.emit("fault", hook=hook, error=text)

    def guard(self, name):
        """A decorator: an exception in the hook becomes a fault and never reaches the script."""

        def decorate(hook):
            def guarded(*args, **kwargs):
                if name in self._off:
                    return None
                try:
                    return hook(*args, **kwargs)
                except Exception as error:
                    self.fault(name, error)
                    return None

            guarded.__wrapped__ = hook
            return guarded

        return decorate

    # Moments

    def on_step(self, function):
        """`function(index)` after each optimizer step, index from 0, until it returns `DONE`."""
        self._on_step.append(self.guard(f"on_step {_name(function)}")(function))

    def on_end(self, function):
        """`function(reason)` before the process ends."""
        self._on_end.append(self.guard(f"on_end {_name(function)}")(function))

    def on_claim(self, function):
        """`function()` once this process is the one that trains."""
        self._on_claim.append(self.guard(f"on_claim {_name(function)}")(function))

    def on_enough(self, function):
        """`function()` once the schedule is satisfied."""
        self._on_enough.append(self.guard(f"on_enough {_name(function)}")(function))

    def measured_enough(self):
        """Called by steps.py alone, once."""
        for function in self._on_enough:
            function()

    def step_ended(self, index):
        """Called by steps.py alone."""
        done = [function for function in self._on_step if function(index) is DONE]
        if done:
            self._on_step = [function for function in self._on_step if function not in done]

    def ending(self, reason):
        """Called by ending.py alone, once."""
        functions, self._on_end = self._on_end, []
        for function in functions:
            function(reason)

    # Who reports

    def hello(self):
        """The launched process's early word."""
        if not self.reports or self.role != roles.LAUNCHED:
            return
        # The file first: whoever reads the hello may already rely on it.
        channel.take(self.plan.trial_dir, "launched")
        early = channel.plain_line(self._hello(False))
        channel.Channel(self.plan.trial_dir, self.rank).write_bytes(early)

    def claim(self):
        """Makes this the process that reports, if it may be; true if it is."""
        if self.state != WAITING:
            return self.state == TRAINING
        if self.reports:
            if roles.in_loader_worker() or not self._entitled():
                self.state = SILENT
                return False
            self.rank = roles.rank()
            if not channel.take(self.plan.trial_dir, f"claim.{self.rank}"):
                self.state = SILENT
                self._kept = []
                return False
            self._channel = channel.Channel(self.plan.trial_dir, self.rank)
            kept, self._kept = self._kept, []
            for record in kept:
                record["pid"] = self.pid
            self.state = TRAINING
            self._write([self._hello(True)] + kept)
        else:
            self.state = TRAINING
        for function in self._on_claim:
            function()
        return True

    def claim_for_end(self):
        """The launched process has come to its end, or to an out-of-memory error, without having trained."""
        return self.claim() if self.role == roles.LAUNCHED else self.state == TRAINING

    def _entitled(self):
        if not roles.starts_with_interpreter(self.plan.argv):
            return True
        return os.path.exists(os.path.join(self.plan.trial_dir, "launched"))

    def _hello(self, training):
        return {
            "v": VERSION,
            "t": "hello",
            "at": self.now(),
            "pid": self.pid,
            "nonce": self.plan.nonce,
            "ppid": os.getppid(),
            "rank": self.rank,
            "world_size": roles.world_size(),
            "argv": roles.command_line(),
            "python": "{}.{}.{}".format(*sys.version_info[:3]),
            "executable": sys.executable or "",
            "training": training,
        }

    def _write(self, records):
        later, self._later = self._later, []
        try:
            self._channel.write(later + records)
        except OSError:
            # The trial directory is gone or full; the launcher misses the records and says so.
            self.state = SILENT

    def _after_fork(self):
        self.pid = os.getpid()
        self.role = roles.CANDIDATE
        self._later = []
        if self.reports and self.state == TRAINING:
            self.state = SILENT


def _name(function):
    return getattr(function, "__qualname__", type(function).__name__)
