from .base import Knob
class NumWorkers(Knob):
    name="num_workers"
class PinMemory(Knob):
    name="pin_memory"
class PrefetchFactor(Knob):
    name="prefetch_factor"
class PersistentWorkers(Knob):
    name="persistent_workers"
