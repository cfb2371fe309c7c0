"""Starts the autofit agent where AUTOFIT_MODE is set, then hands over to the user's own sitecustomize, if
any.

Nothing but boilerplate: whatever the agent does or fails to do, the interpreter goes on as it would without
it.
"""

import os
import sys


def _start_agent():
    if not os.environ.get("AUTOFIT_MODE"):
        return
    # BaseException: SystemExit or KeyboardInterrupt here would end the interpreter before the script's first
    # line.
    try:
        from autofit_agent import bootstrap

        bootstrap.start()
    except BaseException as error:
        # The launcher sees no hello and says so; this line, in the script's output, says why.
        try:
            sys.stderr.write(f"autofit: the agent could not start: {type(error).__name__}: {error}\n")
        except BaseException:
            return


def _chain():
    try:
        # Loaded in every interpreter; `importlib.util` is not.
        from _frozen_importlib import module_from_spec
        from _frozen_importlib_external import PathFinder
    except ImportError:
        from importlib.machinery import PathFinder
        from importlib.util import module_from_spec

    here = os.path.dirname(os.path.abspath(__file__))
    elsewhere = [p for p in sys.path if os.path.abspath(p or os.curdir) != here]
    spec = PathFinder.find_spec("sitecustomize", elsewhere)
    if spec is None or spec.loader is None:
        return
    ours = sys.modules.get("sitecustomize")
    module = module_from_spec(spec)
    sys.modules["sitecustomize"] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        # Whatever the user's file raises is the interpreter's to judge, as it would be without us.
        if ours is None:
            sys.modules.pop("sitecustomize", None)
        else:
            sys.modules["sitecustomize"] = ours
        raise


_start_agent()
_chain()
