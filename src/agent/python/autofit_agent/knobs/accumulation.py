from .base import Knob
class Accumulation(Knob):
    name="accumulation"
