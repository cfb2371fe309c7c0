"""What torch.compile needs, and what it tells of what it did."""

import importlib.util
import os
import shutil
import sys
import sysconfig


def tools_missing(device):
    """None, or what torch.compile lacks on this machine for this kind of device."""
    if device == "cuda":
        if importlib.util.find_spec("triton") is None:
            return "torch.compile needs Triton, which is not installed"
        if not any(shutil.which(name) for name in (os.environ.get("CC"), "gcc", "clang", "cc") if name):
            return "torch.compile needs a C compiler, and there is none"
        return None
    cxx = os.environ.get("CXX") or "g++"
    if not shutil.which(cxx.split()[0]):
        return "torch.compile needs a C++ compiler, and there is no %s" % cxx
    if not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
        return "torch.compile needs Python's header files, which are not installed"
    return None


def is_compiling(torch):
    """The function that says, in code that is being compiled, that it is."""
    # Before PyTorch 2.3 it had no public name.
    return getattr(torch.compiler, "is_compiling", None) or torch._utils.is_compiling


def graphs():
    """Graphs compiled in this process so far."""
    utils = sys.modules.get("torch._dynamo.utils")
    return utils.counters["stats"]["unique_graphs"] if utils is not None else 0


def graph_breaks():
    """Places at which a model could not be compiled in one piece, so far."""
    utils = sys.modules.get("torch._dynamo.utils")
    return sum(utils.counters["graph_break"].values()) if utils is not None else 0


def failures(since=0):
    """What the compiler said where it gave up, a line each, oldest first; the first `since` are not told."""
    utils = sys.modules.get("torch._dynamo.utils")
    read = getattr(utils, "get_compilation_metrics", None)
    if read is None:
        return []
    texts = [(one.fail_type, one.fail_reason) for one in read() if getattr(one, "fail_type", None)]
    return ["%s: %s" % (kind, _head(text or "")) for kind, text in texts[since:]]


def _head(text):
    """Two lines: who raised is often on one, and what on the next."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return " ".join(lines[:2])[:300]


def compiled_parts(tensors, most=20000):
    """Compiled pieces among what these outputs were computed by."""
    found, seen = 0, set()
    left = [t.grad_fn for t in tensors if t.grad_fn is not None]
    while left and len(seen) < most:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found += "CompiledFunction" in node.name()
        left.extend(following for following, _ in node.next_functions)
    return found
