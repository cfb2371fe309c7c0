"""Two steady steps looked at closely: the operators of the first, and what the memory of the second was for.

Once the schedule is satisfied the next step runs under `torch.profiler` alone, so that nothing else of ours
is in its times.  The step after it runs with the allocator traced once more and with notes taken of what each
tensor is for (`notes.py`); on the processor the profiler traces the allocator (`trace.py`), on a GPU the
caching allocator does (`snapshot.py`).  What was alive at the peak is then given to categories
(`attribution.py`), told, and the trial ends.

Profilers are native code that sees all of PyTorch from within: where one crashes, Python says at which line.
"""

import faulthandler

_STDERR = 2  # the descriptor: the script may have put something else in the stream's place


def install(session):
    """Does nothing unless the plan asks for a profile."""
    if not session.plan.profile:
        return
    from .steps import Profile

    if not faulthandler.is_enabled():
        faulthandler.enable(_STDERR)
    profile = Profile(session)
    session.on_enough(profile.begin)
    session.on_step(profile.step_ended)
