"""Whether the code that draws from a loader bears its end.

A `for` loop does.  Who asks with `next()` may count on a loader without an end, and an exception is then all
that an early end brings; where it starts anew there is nothing behind the end to be seen either.  Generators
in between hand the end on to whoever draws from them.
"""

import inspect
import opcode
import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
_STANDARD = os.path.dirname(os.path.abspath(os.__file__))
_LOOPS = {opcode.opmap[name] for name in ("FOR_ITER", "SEND", "YIELD_FROM") if name in opcode.opmap}
_CACHE = opcode.opmap.get("CACHE")


def bears_end():
    """Of the code that this is called for, outside the agent."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        ours = code.co_filename.startswith(_HERE)
        if not ours and not _in_a_loop(frame) and not _of_a_package(code.co_filename):
            return False
        if not ours and not code.co_flags & inspect.CO_GENERATOR:
            return True
        frame = frame.f_back
    return False


def _in_a_loop(frame):
    """Whether the instruction that draws is that of a `for` loop."""
    code, at = frame.f_code.co_code, frame.f_lasti
    while at > 0 and code[at] == _CACHE:
        at -= 2
    return code[at] in _LOOPS


def _of_a_package(name):
    """Libraries that ask with `next()` look after the end themselves."""
    return "site-packages" in name or "dist-packages" in name or name.startswith(_STANDARD)
