"""A script that computes with a sharded parameter and a whole tensor of its own ends with torch's exception.

Such a tensor is one that it took from the model before that was sharded (`{name: p.clone()}`), or what it
gave to a part of the model that it calls by itself.
"""

import sys
import traceback

from .. import patches, places

_WORDS = "mixed torch.Tensor and DTensor"  # in what DTensor says of it, in all versions


def watch(stop, torch):
    """Calls `stop(reason)` where the script ends so."""
    shown = places.Places(torch)

    def make(previous):
        def excepthook(kind, error, trace):
            previous(kind, error, trace)
            if _WORDS in str(error):
                frames = reversed(traceback.extract_tb(trace))
                where = shown.first((frame.filename, frame.lineno) for frame in frames)
                stop(
                    "the script computes with a sharded parameter and a whole tensor of its own (%s)" % where
                )

        return excepthook

    patches.replace(sys, "excepthook", make)
