"""Several configurations in one launch: `windows` of the plan, in turns with its `settings`.

Theory of operation
-------------------
Once the launch is warm and its first steps have been compared (`parity_steps`), *windows* are opened between
two steps: A B A C A D A ..., where A is `settings`.  A window is a few steps; the first ones are marked as
warm-up.  Rounds are repeated until each ratio to the windows of A beside it is known well enough, or the
schedule's time is spent; then the process ends as any measured trial does.  The order and the end are in
`sweep.py`.

- A configuration that differs in knobs is put in force between two steps, read back at the end of the
  window's warm-up, and taken away again (`turning.py`).
- One with a smaller `batch_size` is given smaller batches (`cutting.py`).  A script may break where its
  shapes are fixed, and the process with it; so these come after the others, the largest first.  Last comes
  what may run out of memory.  What was measured before stays.
- In the first round memory is read (`footprint.py`).

Records: `window` opens one, at once and again with the read-back; steps bear its number in `run`;
`window_memory` says what it needed.
"""


def install(session):
    """Does nothing in a launch of one configuration."""
    if session.plan.windows:
        from . import sweep

        session.windows = sweep.Sweep(session)
