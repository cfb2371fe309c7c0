"""Switches of PyTorch's GPU libraries: `tf32` and `cudnn_benchmark`.

They are set at the first call of the root, for scripts set their own after importing torch.
"""

from ..tf32 import read_tf32, remember_tf32, write_tf32
from .base import Knob


class Flag(Knob):
    per_root = True
    serves = True
    give_back = None  # a function: the switch as the script has it

    @classmethod
    def turns_between_steps(cls, _value):
        return True

    def on_root(self, root, args, kwargs):
        if root.index == 0:
            super().on_root(root, args, kwargs)

    def requires(self, root, args, kwargs):
        device = next(root.module.parameters()).device
        if device.type != "cuda":
            return "it is a switch of NVIDIA's libraries, and %s is on %s" % (root.name, device.type)
        return self.stands_against(device) if self.wanted else None

    def stands_against(self, device):
        """None, or why this GPU or script cannot take it."""

    def apply(self, root, args, kwargs):
        self.give_back = self.remember()
        self.write(self.wanted)
        self.objects = 1

    def undo(self):
        if self.give_back is not None:
            self.give_back()
            self.give_back = None

    def verify(self):
        found = self.read()
        if found == self.wanted:
            return found
        if self.acts and not self.applied:
            self.reason = "no call of a module with trainable parameters was seen"
        else:
            self.reason = "PyTorch has it at %s" % (found,)
        return None


class Tf32(Flag):
    name = "tf32"

    def stands_against(self, device):
        if self.torch.cuda.get_device_capability(device) < (8, 0):
            return "%s does not compute in TF32" % self.torch.cuda.get_device_name(device)
        return None

    def remember(self):
        return remember_tf32(self.torch)

    def write(self, on):
        write_tf32(self.torch, on)

    def read(self):
        matmul, convolution, self.how = read_tf32(self.torch)
        return matmul if matmul == convolution else None


class CudnnBenchmark(Flag):
    name = "cudnn_benchmark"

    def stands_against(self, device):
        torch = self.torch
        if torch.backends.cudnn.deterministic or torch.are_deterministic_algorithms_enabled():
            return "the script asks for deterministic algorithms"
        return None

    def remember(self):
        on = self.torch.backends.cudnn.benchmark
        return lambda: self.write(on)

    def write(self, on):
        self.torch.backends.cudnn.benchmark = on

    def read(self):
        self.how = "torch.backends.cudnn.benchmark"
        return bool(self.torch.backends.cudnn.benchmark)
