"""A confirm trial: end-of-epoch code, and the largest batch.

The training loader ends after a number of batches, so that the script comes to its own evaluation and
checkpoint. The trial ends at the first step of the next epoch.  A loader whose end the script may not bear
(`consumers.py`) is left alone: the trial goes on until the script has evaluated and saved.  Before that, at
the loader's very first batch, a bounded look through it finds the largest batch.  It is kept back until the
optimizer has stepped once: before that the optimizer's state is not there, and the same batch would need less
memory than it will need in production.
"""

import threading
import time

from . import roles
from .consumers import bears_end
from .samples import tensors

LOOK_OF_RANKS = 32  # batches
_COMMON_END = 15.0  # seconds until several ranks have ended together, if they still train


def install(session):
    """Does nothing unless the plan asks for coverage."""
    if session.plan.coverage is None:
        return
    session.coverage = Coverage(session)
    session.samples.instead = session.coverage.fetch
    session.samples.on_batch.append(session.coverage.batch)
    session.on_step(session.coverage.step_ended)


class Coverage:
    """See the head of this file."""

    def __init__(self, session):
        self.session = session
        self.plan = session.plan.coverage
        self._looked = self.plan.look_batches <= 0
        self._ended = False
        self._next_epoch = False
        self._endless = False  # the loader must not end early
        self._handed = 0  # batches of training so far
        self._largest = None  # (batch, its samples) until the optimizer has stepped
        self._sees = session.guard("coverage look")(self._see)

    # The loader

    def fetch(self, iterator, original):
        """The next batch of a loader, or its end."""
        key = getattr(iterator, "_autofit_key", None)
        if not self._is_training(key):
            return original(iterator)
        if not self._looked:
            self._looked = True
            self._look(iterator, original)
        last = getattr(iterator, "_autofit_yielded", 0) >= self.plan.end_loader_after
        if self._largest is not None and (last or self.session.steps > 0):
            return self._hand_out_largest(iterator)
        if last and not self._endless:
            self._loader_ended()
            self._endless = not bears_end()
            if not self._endless:
                raise StopIteration
        try:
            return self._one(iterator, original)
        except StopIteration:
            if self._largest is not None:
                return self._hand_out_largest(iterator)  # an epoch without a step is over
            self._loader_ended()
            raise

    def _is_training(self, key):
        wanted = self.session.plan.training_loader
        if key in self.session.samples.training or (wanted is not None and key == wanted):
            return True
        # Not known yet: the first loader that is drawn from with gradients on.
        torch = self.session.torch
        return wanted is None and not self.session.samples.training and torch.is_grad_enabled()

    def _one(self, iterator, original):
        other = getattr(iterator, "_autofit_fresh", None)
        if other is None:
            return original(iterator)
        batch = original(other)
        iterator._autofit_counts.append(other._autofit_counts.popleft() if other._autofit_counts else None)
        return batch

    def _look(self, iterator, original):
        """Draws up to `look_batches` and keeps the largest alone."""
        end, most = time.perf_counter() + self.plan.look_seconds, self.plan.look_batches
        if self.session.rank_layout is not None:
            # Ranks that share out a batch must find the same one, whatever their clocks say.
            end, most = float("inf"), min(most, LOOK_OF_RANKS)
        sizes, best, over = [], None, False
        while len(sizes) < most and (not sizes or time.perf_counter() < end):
            try:
                batch = original(iterator)
            except StopIteration:
                over = True
                break
            counts = iterator._autofit_counts
            count = counts.popleft() if counts else None
            sizes.append(self._sees(batch) or 0)
            if best is None or sizes[-1] > best[0]:
                best = (sizes[-1], batch, count)
            del batch
        if best is None:
            return
        self._largest = best[1:]
        loader = getattr(iterator, "_autofit_loader", None)
        if over and loader is not None:
            # All of the epoch was drawn: it is drawn once more for training.
            iterator._autofit_fresh = loader._get_iterator()
        self.session.guard("coverage look")(self._tell)(loader, sizes, over)

    def _hand_out_largest(self, iterator):
        (batch, count), self._largest = self._largest, None
        # Of batches that workers have drawn ahead the counts stand in line behind.
        iterator._autofit_counts.appendleft(count)
        return batch

    def _see(self, batch):
        return sum(tensor.numel() for tensor in tensors(batch))

    def _tell(self, loader, sizes, over):
        of = len(sizes) if over else None
        if of is None:
            try:
                of = len(loader)
            except Exception:
                of = None  # an iterable dataset without a length
        ordered = sorted(sizes)
        self.session.emit(
            "look",
            batches=len(sizes),
            of=of,
            largest_elements=ordered[-1],
            median_elements=ordered[len(ordered) // 2],
        )

    # The end

    def batch(self, iterator, key):
        """A batch was handed out.

        A framework that counts batches does not ask for one more at the end of an epoch: the last batch, or
        the first one of the next epoch, is then the sign.
        """
        if key not in self.session.samples.training:
            return
        yielded = getattr(iterator, "_autofit_yielded", 0)
        if self._handed and yielded == 1:
            self._loader_ended()
        self._handed += 1
        if self._endless:
            return
        if self._ended:
            self._next_epoch = True
        elif yielded >= self.plan.end_loader_after:
            self._loader_ended()

    def step_ended(self, _index):
        """The first step of the next epoch ends the trial.

        Without a loader that ends an epoch cannot be cut short: the trial goes on until the script has
        evaluated and saved by itself, or for as long as a phase may take.
        """
        if not self.session.stepper.enough:
            return
        if self.session.samples.source == "loader" and not self._endless:
            over = self._next_epoch
        else:
            self._loader_ended()  # starts the clock
            phases = self.session.phases
            over = phases.evals > 0 and phases.saves > 0
        if over:
            self.session.end.now("covered")

    def _loader_ended(self):
        if self._ended:
            return
        self._ended = True
        _in(self.plan.phase_seconds, self._late)

    def _late(self):
        """End-of-epoch code takes too long: a phase that has not ended by now counts as not fully seen.

        Several ranks that still train end at a common step: each by its own clock would break the others'
        collectives. Those that no longer step end when that has not come.
        """
        if roles.world_size() > 1:
            self.session.end.now("covered")
            _in(_COMMON_END, self._over)
        else:
            self._over()

    def _over(self):
        self.session.end.finish("covered")


def _in(seconds, call):
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    timer.start()
