"""One steady step under PyTorch's profiler, and what the memory at its peak was for.

Once the schedule is satisfied the next step runs under `torch.profiler`, whose memory events are the
allocator's own trace.  Beside it the bytes that autograd holds for the backward pass are counted where they
are saved and let go, and the gradients where that happens.  Parameters, buffers and the optimizer's state are
walked once.  At the moment of the trace's peak the parts are taken together; what none of them explains is
`other`: inputs, workspaces, results in flight.  Then the trial ends.
"""

import os
import time

from . import memory
from .updates import parameters_of

TOP = 15  # operators of each table
EVERY = 0.002  # seconds between two looks at the gradients
NAME = 120  # characters of an operator's name
TRACE = "trace.json.gz"
SNAPSHOT = "memory_snapshot.pickle"
ENTRIES = 200000  # allocations that a snapshot keeps


def install(session):
    """Does nothing unless the plan asks for a profile."""
    if not session.plan.profile:
        return
    profile = Profile(session)
    session.on_enough(profile.begin)
    session.on_step(profile.step_ended)


class Profile:
    """See the head of this file."""

    def __init__(self, session):
        self.session = session
        self.notes = []
        self._torch = None
        self._profiler = None
        self._held = None

    def begin(self):
        """The next step is the one; of several ranks the first one's."""
        if self.session.rank != 0:
            return  # it ends with the first one, at a step that they have in common
        torch = self._torch = self.session.torch
        activities = [torch.profiler.ProfilerActivity.CPU]
        self._cuda = memory.cuda()
        if self._cuda is not None:
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._fixed = fixed(self.session, torch)
        self._allocated = self._cuda.memory_allocated() if self._cuda is not None else None
        self._held = Held(self.session, torch, {key for part in self._fixed.values() for key in part})
        profiler = torch.profiler.profile(activities=activities, record_shapes=True, profile_memory=True)
        if self._cuda is not None:
            self._history(True)
        self._held.begin()
        self._started = time.perf_counter()
        profiler.start()
        self._profiler = profiler

    def step_ended(self, index):
        """The step is over: everything is taken away again, told, and the trial ends."""
        if self._profiler is None:
            return
        profiler, self._profiler = self._profiler, None
        seconds = time.perf_counter() - self._started
        profiler.stop()
        self._held.end()
        try:
            self._tell(profiler, index, seconds)
        finally:
            self.session.end.now("measured")

    def _tell(self, profiler, index, seconds):
        session = self.session
        folder = session.plan.trial_dir
        profiler.export_chrome_trace(os.path.join(folder, TRACE))
        rows = [row for row in profiler.key_averages() if not row.key.startswith(("[", "ProfilerStep"))]
        device = "cuda" if self._cuda is not None else "cpu"
        if self._cuda is not None:
            with open(os.path.join(folder, "memory_summary.txt"), "w", encoding="utf-8") as file:
                file.write(self._cuda.memory_summary())
            self._history(False, os.path.join(folder, SNAPSHOT))
        session.emit(
            "profile",
            step=index,
            seconds=round(seconds, 6),
            device=device,
            by_time=table(rows, device, "time"),
            by_memory=table(rows, device, "memory"),
            memory=self._memory(profiler, device),
            host=host(sum(sum(part.values()) for part in self._fixed.values()) if device == "cpu" else 0),
            notes=self.notes,
        )

    def _history(self, on, path=None):
        """The CUDA allocator's own record of the step, for PyTorch's viewer; a private interface."""
        try:
            tools = self._cuda.memory
            if on:
                tools._record_memory_history(max_entries=ENTRIES)
            else:
                tools._dump_snapshot(path)
                tools._record_memory_history(enabled=None)
        except Exception as error:
            self.notes.append(f"no memory snapshot: {type(error).__name__}: {error}")

    def _memory(self, profiler, device):
        """Bytes of each category at the peak of the allocator's trace."""
        traced = trace(profiler, device, self._torch)
        if traced is None:
            self.notes.append("this version of PyTorch does not show the allocator's trace")
            return None
        moment, above = traced
        parts = {name: sum(part.values()) for name, part in self._fixed.items()}
        gradients = parts.pop("gradients")
        start = sum(parts.values()) + gradients if self._allocated is None else self._allocated
        held = self._held.at(moment)
        parts["gradients"], parts["activations"] = held
        peak = start + above
        other = peak - sum(parts.values())
        if other < 0:
            # A look every few milliseconds is late by what happened since.
            self.notes.append("gradients and activations were looked at too late by %d bytes" % -other)
            parts["activations"] = max(parts["activations"] + other, 0)
            other = peak - sum(parts.values())
        parts["other"] = other
        return {"peak": peak, "at_start": start, "categories": parts}


def fixed(session, torch):
    """{category: {storage: bytes}} of what a step keeps; a storage counts for the first that has it."""
    seen = set()

    def take(tensors):
        found = {}
        for tensor in tensors:
            size, key = storage(tensor)
            if key is not None and key not in seen:
                seen.add(key)
                found[key] = size
        return found

    optimizers = [o for o in (reference() for reference in session.optimizers) if o is not None]
    modules = [root.module for root in session.roots.roots if root.module is not None]
    parameters = [p for m in modules for p in m.parameters()]
    parameters += [p for o in optimizers for p in parameters_of(o)]
    state = (v for o in optimizers for values in o.state.values() for v in _values(values))
    return {
        "parameters": take(parameters),
        "buffers": take(b for m in modules for b in m.buffers()),
        "optimizer_state": take(v for v in state if isinstance(v, torch.Tensor)),
        "gradients": take(p.grad for p in parameters if p.grad is not None),
    }


def _values(state):
    return state.values() if hasattr(state, "values") else ()


def storage(tensor):
    """(bytes, key) of a tensor's storage; no key where it has none of its own (meta, fake, sparse)."""
    try:
        held = tensor.untyped_storage()
        return held.nbytes(), (held.device.type, held.data_ptr()) if held.data_ptr() else None
    except (RuntimeError, NotImplementedError, AttributeError):
        return 0, None


class Held:
    """Gradients, and what autograd holds for the backward pass, over one step."""

    def __init__(self, session, torch, keeps):
        self._torch = torch
        self._keeps = keeps  # parameters and the like, which the graph refers to and does not hold
        optimizers = [o for o in (reference() for reference in session.optimizers) if o is not None]
        self._parameters = [p for o in optimizers for p in parameters_of(o)]
        self._counts = {}  # storage -> references from the graph
        self._bytes = 0
        self._series = []  # (time in ns, gradients, activations)
        self._looked = 0.0
        self._gradients = 0
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    def begin(self):
        self._look(True)
        self._hooks.__enter__()

    def end(self):
        self._hooks.__exit__(None, None, None)
        self._look(True)

    def at(self, moment):
        """(gradients, activations) at a moment, as last seen before."""
        found = (0, 0)
        for when, gradients, held in self._series:
            if when > moment:
                break
            found = (gradients, held)
        return found

    def _pack(self, tensor):
        size, key = storage(tensor)
        if key is None or key in self._keeps:
            return tensor
        count = self._counts.get(key, 0)
        self._counts[key] = count + 1
        if not count:
            self._bytes += size
        self._look(False)
        return Saved(self, tensor, key, size)

    def _unpack(self, packed):
        self._look(False)
        return packed.tensor if isinstance(packed, Saved) else packed

    def freed(self, key, size):
        """Called by `Saved`."""
        self._counts[key] -= 1
        if not self._counts[key]:
            del self._counts[key]
            self._bytes -= size
            self._look(False)

    def _look(self, gradients):
        now = time.perf_counter()
        if gradients or now - self._looked > EVERY:
            self._looked = now
            self._gradients = sum(storage(p.grad)[0] for p in self._parameters if p.grad is not None)
        self._series.append((time.time_ns(), self._gradients, self._bytes))


class Saved:
    """A tensor in the graph; its end is the graph's letting go of it."""

    __slots__ = ("key", "owner", "size", "tensor")

    def __init__(self, owner, tensor, key, size):
        self.owner = owner
        self.tensor = tensor
        self.key = key
        self.size = size

    def __del__(self):
        self.owner.freed(self.key, self.size)


def trace(profiler, device, torch):
    """(time in ns, bytes above the start) of the peak of the allocator's trace, or None."""
    results = getattr(getattr(profiler, "profiler", None), "kineto_results", None)
    kind = getattr(torch.autograd.DeviceType, device.upper(), None)
    try:
        events = [
            (event.start_ns(), event.nbytes())
            for event in results.events()
            if event.name() == "[memory]" and event.device_type() == kind
        ]
    except AttributeError:
        return None
    if not events:
        return None
    events.sort()
    now, best = 0, (events[0][0], 0)
    for moment, size in events:
        now += size
        if now > best[1]:
            best = (moment, now)
    return best


def table(rows, device, what):
    """The operators with the most time, or memory, of their own."""
    names = {
        ("cpu", "time"): "self_cpu_time_total",
        ("cuda", "time"): "self_device_time_total",
        ("cpu", "memory"): "self_cpu_memory_usage",
        ("cuda", "memory"): "self_device_memory_usage",
    }
    name = names[device, what]
    if rows and not hasattr(rows[0], name):
        name = name.replace("device", "cuda")  # before torch 2.4
    values = sorted(((getattr(row, name), row) for row in rows), key=lambda pair: -pair[0])
    total = sum(value for value, _ in values if value > 0)
    unit = 1e6 if what == "time" else 1
    return [
        {
            "operator": row.key[:NAME],
            "calls": row.count,
            "value": value / unit,
            "share": value / total,
        }
        for value, row in values[:TOP]
        if value > 0
    ]


def host(tensors):
    """This process by the kernel's books; `rest` is what is not tensors that a step keeps."""
    figures = memory.host()
    mine = figures.get("anonymous", 0) + figures.get("shared", 0)
    return {
        "anonymous_and_shared": mine,
        "rest": max(mine - tensors, 0),
        "mapped_files": max(figures.get("rss", 0) - mine, 0),
        "rss_peak": figures.get("rss_peak", 0),
    }
