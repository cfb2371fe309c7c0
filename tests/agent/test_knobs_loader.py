"""Loader and environment knobs: on the training loader alone, with equal results, read back."""

import os
import unittest

import torch
from models_knobs import CNN
from support_knobs import agent, distance, state_of
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def train(batch_size=8, **loader_options):
    """Two epochs, the evaluation loader built first; (losses, state and an eval output, loaders)."""
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(40, 3, 8, 8), torch.randint(0, 5, (40,)))
    check = DataLoader(data, batch_size=4)
    loader = DataLoader(data, batch_size=batch_size, shuffle=True, **loader_options)
    model = CNN(True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(2):
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        model.eval()
        with torch.no_grad():
            output = torch.cat([model(x) for x, _ in check])
    return losses, [*state_of(model), output], (check, loader)


class Loader(unittest.TestCase):
    def test_workers_change_the_training_loader_alone_and_nothing_in_training(self):
        losses, state, _ = train()
        wanted = {"num_workers": 2, "prefetch_factor": 3}
        with agent(wanted, training_loader=1) as tuned:
            again, same, (check, loader) = train()
            self.assertEqual(losses, again)
            self.assertEqual(distance(state, same), 0.0)
            self.assertEqual((check.num_workers, loader.num_workers), (0, 2))
            self.assertEqual(loader.prefetch_factor, 3)
            for name, value in wanted.items():
                self.assertEqual(tuned.knob(name)["effective"], value)
                self.assertIn("1 of 2 loaders", tuned.knob(name)["how"])

    def test_kept_workers_draw_other_permutations_from_the_second_epoch_on(self):
        losses, _, _ = train()
        wanted = {"num_workers": 2, "persistent_workers": True}
        with agent(wanted, training_loader=1) as tuned:
            again, _, (_, loader) = train()
            self.assertTrue(loader.persistent_workers)
            self.assertIs(tuned.knob("persistent_workers")["effective"], True)
        self.assertEqual(losses[:5], again[:5])
        self.assertNotEqual(losses[5:], again[5:])

    def test_no_workers_takes_away_what_needs_them(self):
        with agent({"num_workers": 0}, training_loader=1) as tuned:
            _, _, (_, loader) = train(num_workers=2, prefetch_factor=4, persistent_workers=True, timeout=30)
            self.assertEqual(loader.num_workers, 0)
            self.assertEqual(tuned.knob("num_workers")["effective"], 0)

    def test_prefetching_without_workers_is_not_in_force(self):
        with agent({"prefetch_factor": 4}, training_loader=1) as tuned:
            train()
            self.assertIsNone(tuned.knob("prefetch_factor")["effective"])
            self.assertIn("no worker", tuned.knob("prefetch_factor")["reason"])

    def test_pinned_memory_is_asked_for(self):
        with agent({"pin_memory": True}, training_loader=1) as tuned:
            _, _, (check, loader) = train()
            self.assertEqual((check.pin_memory, loader.pin_memory), (False, True))
            self.assertIs(tuned.knob("pin_memory")["effective"], True)

    def test_without_a_known_training_loader_none_is_touched(self):
        with agent({"num_workers": 2}) as tuned:
            _, _, (check, loader) = train()
            self.assertEqual((check.num_workers, loader.num_workers), (0, 0))
            self.assertIsNone(tuned.knob("num_workers")["effective"])

    def test_the_batch_of_the_training_loader(self):
        with agent({"batch_size": 10}, training_loader=1) as tuned:
            losses, _, (check, loader) = train()
            self.assertEqual((check.batch_size, loader.batch_size), (4, 10))
            self.assertEqual(len(losses), 8)
            self.assertEqual(tuned.knob("batch_size")["effective"], 10)

    def test_an_option_of_the_script_is_only_read_back(self):
        ways = {"batch_size": "option"}
        with agent({"batch_size": 10}, ways=ways, training_loader=1) as tuned:
            train(batch_size=10)
            self.assertEqual(tuned.knob("batch_size")["effective"], 10)
        with agent({"batch_size": 10}, ways=ways, training_loader=1) as tuned:
            train(batch_size=8)
            self.assertIsNone(tuned.knob("batch_size")["effective"])
            self.assertIn("batch_size=8", tuned.knob("batch_size")["reason"])


class Environment(unittest.TestCase):
    ways = {"omp_threads": "environment", "malloc": "environment"}

    def test_threads_are_read_back_from_torch(self):
        threads = torch.get_num_threads()
        with agent({"omp_threads": threads}, ways=self.ways) as tuned:
            train()
            self.assertEqual(tuned.knob("omp_threads")["effective"], threads)
        with agent({"omp_threads": threads + 1}, ways=self.ways) as tuned:
            train()
            self.assertIsNone(tuned.knob("omp_threads")["effective"])
            self.assertIn("the script set", tuned.knob("omp_threads")["reason"])

    def test_the_host_allocator_is_what_the_process_was_started_with(self):
        self.assertNotIn("MALLOC_TRIM_THRESHOLD_", os.environ)
        with agent({"malloc": "trim"}, ways=self.ways) as tuned:
            train()
            self.assertIsNone(tuned.knob("malloc")["effective"])
            self.assertIn("malloc=default", tuned.knob("malloc")["reason"])


if __name__ == "__main__":
    unittest.main()
