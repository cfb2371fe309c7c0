"""Launches a script and looks at what the agent told of its command line."""

from support import AgentTest

# Two optimizer steps without a loader: enough to become the process that trains.
TRAIN = """
import torch
torch.set_num_threads(1)

def train(steps=8):
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()

"""


class OptionsTest(AgentTest):
    def told(self, script, *args, **changes):
        """The last `options` record of a launch that went well, its options by `dest`."""
        result = self.launch(script, *args, **changes)
        self.assertEqual(result.code, 0, result.describe())
        self.assertEqual(result.all("fault"), [], result.describe())
        info = result.last("options")
        return info, {option["dest"]: option for option in info["options"]}

    def assert_written(self, option, kind, value, write):
        """What it is, what it is worth now, and how it is set to `{value}`, or on and off."""
        ways = option["write"] or [option["on"], option["off"]]
        self.assertEqual((option["kind"], option["value"], ways), (kind, value, write), option)

    def assert_read(self, result, knob, effective, reason=None):
        """The knob's report, as the parser's value has it."""
        self.assertEqual(result.all("fault"), [], result.describe())
        report = [e for e in result.all("knob") if e["knob"] == knob][-1]
        self.assertEqual(report["effective"], effective, report)
        if reason is not None:
            self.assertIn(reason, report["reason"])
