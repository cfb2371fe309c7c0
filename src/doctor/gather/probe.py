"""What an interpreter and its PyTorch are, as one line of JSON.  No context is made on a GPU."""

import sys

# With `-c` the working directory comes first, and a file `json.py` in it would be run.
sys.path[:] = [entry for entry in sys.path if entry]

import json
import os
import signal
import sysconfig

# A driver that hangs must not hang the doctor, whatever Python is waiting for.
signal.signal(signal.SIGALRM, signal.SIG_DFL)
signal.alarm(int(os.environ["AUTOFIT_PROBE_SECONDS"]))


def attempt(function):
    """(value, None) or (None, what went wrong)."""
    try:
        return function(), None
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def venv():
    import ensurepip
    import venv

    return bool(ensurepip and venv)


def dotted(number, major):
    """9 10 2 from 91002, the way that cuDNN writes its version (8 9 2 from 8902 before version 9)."""
    return f"{number // major}.{number % major // 100}.{number % 100}"


def torch_facts(torch):
    """PyTorch as it describes itself."""
    import importlib.util

    cudnn, _ = attempt(torch.backends.cudnn.version)
    nccl = None
    if torch.version.cuda:
        nccl, _ = attempt(lambda: ".".join(str(n) for n in torch.cuda.nccl.version()))
    available, why = attempt(torch.cuda.is_available)
    if not available and torch.version.cuda:
        _, why = attempt(torch.cuda.init)
    _, numpy = attempt(lambda: torch.zeros(1).numpy())
    return {
        "version": str(torch.__version__),
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "available": bool(available),
        "unavailable": why,
        "devices": attempt(torch.cuda.device_count)[0] or 0,
        "arch": attempt(torch.cuda.get_arch_list)[0] or [],
        "cudnn": dotted(cudnn, 10000 if cudnn >= 90000 else 1000) if cudnn else None,
        "nccl": nccl,
        "triton": importlib.util.find_spec("triton") is not None,
        "numpy": numpy,
        "threads": torch.get_num_threads(),
    }


answer = {
    "version": "{}.{}.{}".format(*sys.version_info[:3]),
    "executable": sys.executable,
    "venv": bool(attempt(venv)[0]),
    "headers": os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")),
}
torch, answer["torch_error"] = attempt(lambda: __import__("torch"))
if torch is not None:
    answer["torch"], answer["torch_error"] = attempt(lambda: torch_facts(torch))
sys.stdout.write("\nautofit-doctor " + json.dumps(answer) + "\n")
