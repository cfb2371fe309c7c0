"""Exact knobs leave training as it is: the examples, unmodified, in production against the bare scripts.

Compared are all parameters and buffers, the optimizer's state where the script saves it, and what it prints
of its evaluation.  Where a knob changes the order of no sum the demand is equality of every bit.  That each
knob was in force is read twice: from the agent's reports, and from a witness that looks by itself.

`allocator` is not here: its settings are those of CUDA's caching allocator.  Without a GPU the agent refuses
it, as the last control shows.
"""

import copy
import re
import unittest

from support_examples import BATCH, PARAMETERS, STEPS, ExampleTest, bare, excesses

WORKERS = ("--num-workers", "2")
NO_DROPOUT = ("--dropout", "0")  # parts of a batch draw other masks; the GPT has none by default


class Accumulation(ExampleTest):
    """In 3 parts, of 8 samples 3, 3 and 2.  BatchNorm forbids it in the CNN and the GAN."""

    def test_gpt_whose_model_returns_its_loss(self):
        run = self.tuned("gpt", accumulation=3)
        self.assertEqual((run.witness["samples"], run.witness["recomputed"]), (3, 0))
        self.assert_rounding(run, bare("gpt"))

    def test_text_classifier_whose_loss_is_outside(self):
        run = self.tuned("text_classifier", *NO_DROPOUT, accumulation=3)
        self.assertEqual(run.witness["samples"], 3)
        self.assert_rounding(run, bare("text_classifier", *NO_DROPOUT))


class Checkpointing(ExampleTest):
    """A block has two normalisations, which run once more in each backward pass."""

    def check(self, name, blocks, **settings):
        run = self.tuned(name, **settings)
        self.assertEqual(run.witness["recomputed"], 2 * blocks * STEPS[name])
        self.assertEqual(run.witness["samples"], BATCH)
        self.assertEqual(any(run.witness["pinning"]), "pin_memory" in settings)
        self.assert_same(run, bare(name))

    def test_gpt(self):
        self.check("gpt", 0, checkpoint="none", accumulation=1)
        self.check("gpt", 2, checkpoint="alternate")
        self.check("gpt", 4, checkpoint="all")

    def test_cnn_whose_running_statistics_are_buffers(self):
        self.check("cnn", 0, checkpoint="none", pin_memory=True, malloc="retain")
        self.check("cnn", 2, checkpoint="alternate", malloc="trim")
        self.check("cnn", 3, checkpoint="all", malloc="pages")

    def test_text_classifier_with_dropout(self):
        self.check("text_classifier", 3, checkpoint="all", accumulation=1, malloc="default")


class Loaders(ExampleTest):
    """The samples of the GAN and the text classifier are always the same.

    Those of the CNN draw random numbers, so that other workers make another run of the same distribution:
    there the bare script has the same workers.
    """

    def test_workers_by_the_agent(self):
        run = self.tuned("gan", num_workers=2, malloc="retain")
        self.assertEqual((run.witness["forks"], run.witness["ahead"]), (4, [3, 3]))
        self.assert_same(run, bare("gan"))

    def test_workers_by_the_scripts_option(self):
        run = self.tuned(
            "text_classifier", *WORKERS, num_workers=2, prefetch_factor=1, ways={"num_workers": "option"}
        )
        # Two epochs of training and evaluation, whose loader prefetches as before.
        self.assertEqual((run.witness["forks"], run.witness["ahead"]), (8, [2, 4, 2, 4]))
        self.assert_same(run, bare("text_classifier"))

    def test_prefetching(self):
        run = self.tuned("gan", num_workers=2, prefetch_factor=1, malloc="huge")
        self.assertEqual((run.witness["forks"], run.witness["ahead"]), (4, [2, 2]))
        self.assert_same(run, bare("gan"))
        run = self.tuned("cnn", *WORKERS, prefetch_factor=3, malloc="huge")
        self.assertEqual(run.witness["ahead"], [6, 4])
        self.assert_same(run, bare("cnn", *WORKERS))

    def test_pinned_memory(self):
        """Without a GPU PyTorch warns that it pins nothing.  The CNN's turn is with its checkpointing."""
        run = self.tuned("gan", pin_memory=True, malloc="pages")
        self.assertEqual(run.witness["pinning"], [True, True])
        self.assert_same(run, bare("gan"))


class Environment(ExampleTest):
    def test_threads(self):
        """Sums are split among threads: rounding."""
        for name in ("gpt", "gan"):
            self.assert_rounding(self.tuned(name, omp_threads=2), bare(name))

    def test_host_allocator(self):
        """The other words have their turns above: each with the GAN and with the CNN."""
        self.assert_same(self.tuned("gan", malloc="trim"), bare("gan"))


class Together(ExampleTest):
    def test_gpt(self):
        run = self.tuned("gpt", accumulation=2, checkpoint="alternate", malloc="huge")
        self.assertEqual(run.witness["samples"], 4)
        self.assertGreaterEqual(run.witness["recomputed"], 2 * 2 * 2 * STEPS["gpt"])
        self.assert_rounding(run, bare("gpt"))

    def test_text_classifier(self):
        settings = {"accumulation": 2, "checkpoint": "all", "num_workers": 2}
        run = self.tuned("text_classifier", *NO_DROPOUT, *WORKERS, ways={"num_workers": "option"}, **settings)
        self.assertEqual((run.witness["samples"], run.witness["forks"]), (4, 8))
        self.assertGreaterEqual(run.witness["recomputed"], 2 * 3 * 2 * STEPS["text_classifier"])
        self.assert_rounding(run, bare("text_classifier", *NO_DROPOUT))


class Controls(ExampleTest):
    """The comparison can fail."""

    def test_a_learning_rate_larger_by_a_hundredth_is_seen(self):
        other, reference = bare("gpt", "--lr", "3.03e-3"), bare("gpt")
        off = excesses(other, reference)
        self.assertGreater(max(off.values()), 20)
        # Not in one tensor alone: in nearly all, moments too.
        self.assertGreater(sum(times > 1 for times in off.values()), 0.9 * sum(map(bool, off.values())))
        for check in (self.assert_same, self.assert_rounding):
            with self.assertRaises(AssertionError):
                check(other, reference)

    def test_a_buffer_alone_is_seen(self):
        reference = bare("cnn")
        path = next(path for path in reference.saved if path.endswith("running_mean"))
        other = copy.copy(reference)
        other.saved = {**reference.saved, path: reference.saved[path] + 2 * PARAMETERS}
        for check in (self.assert_same, self.assert_rounding):
            check(copy.copy(reference), reference)
            with self.assertRaisesRegex(AssertionError, re.escape(path)):
                check(other, reference)

    def test_a_knob_that_is_not_in_force_stops_the_run(self):
        with self.assertRaisesRegex(AssertionError, "stopped before the first step.*allocator"):
            self.tuned("gan", allocator="expandable_segments:True")


if __name__ == "__main__":
    unittest.main()
