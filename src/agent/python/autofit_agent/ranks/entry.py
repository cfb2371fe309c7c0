"""The first thing in a process that is one of several ranks of a plain script."""

import zlib

from .. import seeds
from . import layout, saving

ALONE = (None, "single")


def install(session):
    """Does nothing unless the plan's strategy is the agent's to carry out."""
    if session.settings.get("strategy") in ALONE or session.plan.ways.get("strategy") != "agent":
        return
    if session.plan.script_ranks > 1:
        return  # it distributes by itself (knobs/wrapped.py)
    place = layout.enter()
    if place is None:
        return
    session.rank_layout = place
    session.rank = place.rank
    if session.device == "cuda":
        layout.take_device(place.local_rank)
    if session.plan.seed is None:
        # A script that sets no seed begins anywhere, but all of its ranks must begin at the same place.
        session.plan.seed = zlib.crc32(place.run.encode())
        seeds.install(session)
    saving.install(place)
    if place.rank > 0:
        from . import followers

        followers.install(session)
