"""`gradient_as_bucket_view` and `bucket_cap_mb`: the buckets in which copies of a model exchange gradients.

They are arguments of DistributedDataParallel, added where the script builds one and does not pass them by
itself (`wrapping.py`); of the copies that `strategy=ddp` makes of a plain script they are settings of its own
buckets (`ranks/reducer.py`).

As views, gradients lie in the buckets: a rank holds one copy of them instead of two, and every number is the
same.  What a script keeps of a gradient without cloning it is overwritten in the next backward pass.
"""

from ..wrapping import read
from .base import Knob


def of_strategy(settings):
    """What the agent's own copies of a model are exchanged with: arguments of `Reducer`."""
    wanted = {"views": settings.get("gradient_as_bucket_view"), "bucket_mb": settings.get("bucket_cap_mb")}
    return {name: value for name, value in wanted.items() if value is not None}


class _Bucket(Knob):
    def start(self):
        if not self.acts or self._strategy() is not None:
            return
        wrapping = self.session.detect.wrapping
        if wrapping.takes(self.name):
            wrapping.added[self.name] = self.wanted
        else:
            self.refuse("DistributedDataParallel of this PyTorch has no %s" % self.name)

    def _strategy(self):
        """The word of `strategy` where the agent runs the copies."""
        word = self.session.settings.get("strategy", "single")
        return None if word == "single" else word

    def verify(self):
        if not self.acts:
            self.reason = "it is added where DistributedDataParallel is built, by nothing else"
            return None
        return self._of_script() if self._strategy() is None else self._of_reducer()

    def _of_script(self):
        built = self.session.detect.wrapping.models()
        self.objects = len(built)
        if not built:
            self.reason = "no DistributedDataParallel was built"
            return None
        self.how = "DistributedDataParallel(%s) of %s" % (
            self.name,
            ", ".join(type(model.module).__name__ for model, _ in built[:4]),
        )
        for model, passed in built:
            value = read(model, self.name)
            if value != self.wanted:
                whose = "the script passes %s=%s by itself" if self.name in passed else "%s is %s"
                self.reason = whose % (self.name, value)
                return None
        return self.wanted

    def _of_reducer(self):
        strategy = self.session.knobs.get("strategy")
        if strategy.wanted != "ddp":
            self.reason = "with strategy=%s gradients are exchanged block by block" % strategy.wanted
        elif strategy.reducer is None:
            self.reason = strategy.reason or "no model was copied"
        else:
            self.objects = 1
            self.how = "buckets of the gradients of %s" % strategy.root.name
            return self.of(strategy.reducer)
        return None

    def undo(self):
        self.session.detect.wrapping.added.pop(self.name, None)


class GradientAsBucketView(_Bucket):
    name = "gradient_as_bucket_view"

    @staticmethod
    def of(reducer):
        """What is in force."""
        return reducer.views


class BucketCapMb(_Bucket):
    name = "bucket_cap_mb"

    @staticmethod
    def of(reducer):
        """What is in force."""
        return reducer.bucket_mb
