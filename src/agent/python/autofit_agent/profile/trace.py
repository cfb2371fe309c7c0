"""The processor's allocator as torch.profiler has traced it: every block, and the allocator's own count.

The two come by different ways.  Blocks are put together here from single events (address, size, time, the
operator around it).  The count is kept by the allocator itself, in a table of its own, and comes along with
each event.
"""

from .block import Block

_EVALUATE = "autograd::engine::evaluate_function: "
_LOADING = "enumerate(DataLoader)"


class Trace:
    """What profilers have traced one after the other without a gap."""

    def __init__(self):
        self.blocks = []
        self.shapes = []  # (time, address, sizes, dtype) of what operators were given
        self._alive = {}
        self._counts = []  # (time, the allocator's count)
        self._base = None  # its count when tracing began

    def counted(self, begin, end):
        """The highest count between two moments, of what was allocated since tracing began."""
        here = [count for when, count in self._counts if begin <= when <= end]
        before = [count for when, count in self._counts if when < begin]
        return max(here + before[-1:], default=0) - (self._base or 0)

    def read(self, profiler, torch):
        """Takes in what a profiler that was stopped has traced."""
        kinds = torch._C._profiler._EventType
        events, ran = [], {}
        for event, around in _walk(profiler.profiler.kineto_results.experimental_event_tree()):
            if event.tag == kinds.Allocation:
                if event.extra_fields.device.type == "cpu":
                    events.append((event.start_time_ns, event.extra_fields, around))
            elif event.tag == kinds.TorchOp:
                self._given(event)
                number = event.extra_fields.sequence_number
                # Who makes no node for the backward pass leaves its number to the next: the last one has it.
                if number >= 0 and not _is_backward(event) and not event.name.startswith(_EVALUATE):
                    ran[number] = max(ran.get(number, 0), event.start_time_ns)
        events.sort(key=lambda row: row[0])
        for when, fields, around in events:
            if self._base is None:
                self._base = fields.total_allocated - fields.alloc_size
            self._counts.append((when, fields.total_allocated))
            if fields.alloc_size < 0:
                block = self._alive.pop(fields.ptr, None)
                if block is not None:
                    block.died = when
                continue
            block = self._alive[fields.ptr] = Block(fields.ptr, fields.alloc_size, when)
            self.blocks.append(block)
            _describe(block, [e for e in around if e.tag == kinds.TorchOp], ran)

    def _given(self, event):
        for given in event.extra_fields.inputs:
            for one in given if isinstance(given, list) else (given,):
                address = getattr(one, "storage_data_ptr", None)
                if address:
                    shape = (list(one.sizes), str(one.dtype)[6:])
                    self.shapes.append((event.start_time_ns, address, *shape))


def _walk(roots):
    """(event, the events around it, outermost first)."""
    stack = [(event, ()) for event in roots]
    while stack:
        event, around = stack.pop()
        yield event, around
        inside = (*around, event)
        stack.extend((child, inside) for child in event.children)


def _is_backward(event):
    return event.extra_fields.scope.name == "BACKWARD_FUNCTION"


def _describe(block, around, ran):
    for event in around:
        name = event.name
        if name.startswith(_LOADING):
            block.loading = True
        if name.startswith(_EVALUATE):
            block.operator = name[len(_EVALUATE) :]
        elif _is_backward(event):
            block.of = ran.get(event.extra_fields.sequence_number)
        elif block.operator is None and event.extra_fields.scope.name != "USER_SCOPE":
            block.operator = name
