from .base import Knob
class BatchSize(Knob):
    name="batch_size"
