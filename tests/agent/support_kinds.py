"""Runs a script of `kinds/` in a fork of this process, as it is or with settings turned from outside.

A fork has torch, and what else was imported here, from the beginning.
"""

import os
import pickle
import signal
import sys
import tempfile
import types
from unittest import mock

os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no processes that compile, which would be forked too

import torch
import torch._dynamo  # every optimizer imports it: once here, not in every fork
import torch._inductor.compile_fx
from support_knobs import agent
from torch._dynamo.backends.debugging import aot_eager

LIMIT = 60  # seconds a run
STEPS = 12  # after which an endless script is stopped

# What is compiled is traced and differentiated ahead; no C++ is made of it, which takes time and a compiler.
QUICK = (
    mock.patch("torch._inductor.compile_fx.compile_fx", lambda graph, inputs, **_: aot_eager(graph, inputs)),
    mock.patch("autofit_agent.compiling.tools_missing", lambda _device: None),
)


class Enough(BaseException):
    """Ends a script that would go on for ever."""


def run(path, settings, **more):
    """{`knobs`: the last report of each, `switches`, `loader`, `faults`, `parameters`, `error`}."""
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryDirectory() as folder:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.chdir(folder)
                pickle.dump(_run_here(path, settings, more), answer)
                answer.flush()
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        if status != 0:
            return {"error": f"status {os.waitstatus_to_exitcode(status)}", "knobs": {}, "faults": []}
        answer.seek(0)
        return pickle.load(answer)


def _run_here(path, settings, more):
    signal.alarm(LIMIT)
    torch.set_num_threads(1)  # renews the pool that did not survive the fork, before threads race to do so
    if os.path.basename(path) == "endless.py":
        _stop_after_steps()
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__file__ = path
    with open(path, encoding="utf-8") as file:
        code = compile(file.read(), path, "exec")
    error = None
    with QUICK[0], QUICK[1], agent(settings, **more) as tuned:
        try:
            exec(code, main.__dict__)
        except Enough:
            pass
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
        switches = {record["knob"]: record for record in tuned.of("switch")}
    modules = [value for value in vars(main).values() if isinstance(value, torch.nn.Module)]
    return {
        "parameters": [p.detach().clone() for m in modules for p in m.parameters()],
        "knobs": dict(tuned.session.knob_reports),
        "switches": switches,
        "loader": next(iter(sorted(tuned.session.loaders.training)), None),
        "double_backward": tuned.session.detect.double_backward,
        "faults": tuned.session.faults,
        "error": error,
    }


def _stop_after_steps():
    from torch.optim.optimizer import register_optimizer_step_post_hook

    steps = [0]

    def count(*_):
        steps[0] += 1
        if steps[0] == STEPS:
            raise Enough

    register_optimizer_step_post_hook(count)
