from .base import Knob
class Allocator(Knob):
    name="allocator"
class OmpThreads(Knob):
    name="omp_threads"
class Malloc(Knob):
    name="malloc"
