"""Watching tells what training does, and changes nothing of it."""

import os
import sys
import unittest

from support import HEAD, AgentTest

TRAIN = (
    HEAD
    + """
import sys, time
torch.manual_seed(0)
data = TensorDataset(torch.randn(96, 8), torch.randint(0, 2, (96,)))

class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return len(data)
    def __getitem__(self, i):
        time.sleep(0.002)
        return data[i]

model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(int(sys.argv[1])):
    for x, y in DataLoader(Slow(), batch_size=16, shuffle=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        for _ in range(3):
            model(data.tensors[0])
torch.save(model.state_dict(), "model.pt")
print(sum(p.double().abs().sum() for p in model.parameters()).item().hex())
"""
)
SCHEDULE = {"warmup_steps": 1, "min_steps": 1, "max_steps": 1, "max_seconds": 1.0}
PLAN = {"mode": "watch", "inspect": False, "parity_steps": 0, "seed": None, "schedule": SCHEDULE}


class Watching(AgentTest):
    def test_counts_what_training_did_and_computes_the_same(self):
        watched = self.launch(TRAIN, "6", **PLAN)
        self.assertEqual(watched.code, 0, watched.describe())
        self.assertEqual(watched.all("fault"), [], watched.describe())
        last = watched.last("pulse")
        self.assertEqual((last["steps"], last["samples"]), (36, 6 * 96), watched.describe())
        # 576 items of 2 ms each, loaded in the training process itself.
        self.assertGreater(last["loader_wait"], 1.1)
        self.assertGreaterEqual(last["stepped"] - last["begun"], last["loader_wait"] * 0.9)
        self.assertEqual(last["devices"], [])
        self.assertGreaterEqual(len(watched.all("pulse")), 2, watched.describe())
        self.assertTrue(os.path.exists(os.path.join(self.folder, "model.pt")), "it really writes")
        self.assertEqual([e["phase"] for e in watched.all("phase")][-1], "save")
        self.assertEqual(watched.all("step"), [], "a record for each step would fill the disk in a long run")

        self.new_trial(2)
        bare = self.launch(TRAIN, "6", mode="watch", trial_dir=None)
        # A plan that cannot be used is said, and the script goes on without.
        self.assertIn("trial_dir is missing", bare.err)
        self.assertEqual((bare.code, bare.events), (0, []))
        self.assertEqual(bare.out, watched.out, "the very same parameters")

    def test_memory_that_runs_out_is_told(self):
        script = (
            HEAD
            + "x = torch.nn.Parameter(torch.ones(1))\n"
            + (
                "optimizer = torch.optim.SGD([x], lr=0.1)\nx.sum().backward()\noptimizer.step()\n"
                "raise MemoryError('no more')\n"
            )
        )
        result = self.launch(script, **PLAN)
        self.assertEqual(result.code, 1)
        self.assertTrue(result.one("oom")["fatal"], result.describe())

    def test_the_allocators_figures_are_those_of_torch_cuda(self):
        # The shape of torch's own dictionary, on a machine without a GPU.
        script = """
            import torch
            from autofit_agent import memory, watching
            stats = {
                "allocated_bytes": {"all": {"current": 5, "peak": 9}},
                "reserved_bytes": {"all": {"current": 8, "peak": 12}},
                "inactive_split_bytes": {"all": {"current": 2}},
                "num_alloc_retries": 3,
                "num_ooms": 1,
            }
            class Cuda:
                device_count = staticmethod(lambda: 2)
                memory_stats_as_nested_dict = staticmethod(lambda index: stats if index == 1 else {})
            memory.cuda = lambda: Cuda
            print(watching.allocator())
        """
        done = self.launch([sys.executable, self.write("figures.py", script)], **PLAN)
        want = {
            "index": 1,
            "allocated": 5,
            "allocated_peak": 9,
            "reserved": 8,
            "reserved_peak": 12,
            "split": 2,
            "retries": 3,
            "ooms": 1,
        }
        self.assertEqual(done.out.strip(), str([want]), done.describe())


if __name__ == "__main__":
    unittest.main()
