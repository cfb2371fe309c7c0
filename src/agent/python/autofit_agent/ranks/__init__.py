"""A plain script in several processes: each runs the whole script, and only the root's call is shared out.

Every rank walks the same loop over the same batches.  In a training call of the root each takes its part of
the batch (`sharing.py`), and what the call returns is put together again, so that the script's loss,
counters, clipping, schedule and log lines are those of one process, in every rank.  Gradients are averaged
after backward (`reducer.py`), or parameters, gradients and optimizer state are sharded (`sharding.py`).
Ranks other than the first print and write nothing (`followers.py`).

`layout.py` knows which rank this is; the script does not: what torchrun has put into the environment is taken
out, so that a script which looks for it does not begin to distribute by itself.
"""
