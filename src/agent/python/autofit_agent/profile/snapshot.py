"""The caching allocator's own record of a step on a GPU: `torch.cuda.memory._snapshot()`.

The document has `segments` (memory taken from the driver, each with its `blocks` as they are now) and
`device_traces` (what the allocator did since recording began, oldest first).  From both together follows what
was alive at any moment of the record.  Recording is a private interface of PyTorch, the document's form is
stated in the documentation of `_snapshot`.
"""

import pickle

from .block import Block

FILE = "memory_snapshot.pickle"
ENTRIES = 400000  # actions that the record keeps
ROUND = 512  # bytes; the allocator hands out multiples of it


def begin(cuda):
    """From now on the allocator records; Python frames only, native ones take minutes to name."""
    cuda.reset_peak_memory_stats()
    cuda.memory._record_memory_history(max_entries=ENTRIES, stacks="python")


def take(cuda, path):
    """Stops recording; the document."""
    document = save(cuda, path)
    cuda.memory._record_memory_history(enabled=None)
    return document


def save(cuda, path):
    """The document, also written for PyTorch's viewer."""
    document = cuda.memory._snapshot()
    with open(path, "wb") as file:
        pickle.dump(document, file)
    return document


def blocks(document, device, line_of):
    """Every block of the record; `line_of` finds the user's line among (file, line), innermost first."""
    found, alive = [], {}
    for entry in _trace(document, device):
        # The allocator counts a block out when it is asked to free it, also if a stream still uses it.
        if entry["action"] == "free_requested":
            block = alive.pop(entry["addr"], None)
            if block is None:
                block = Block(entry["addr"], _rounded(entry["size"]))
                found.append(block)
            block.died = _time(entry)
        elif entry["action"] == "alloc":
            block = alive[entry["addr"]] = Block(entry["addr"], _rounded(entry["size"]), _time(entry))
            block.place = line_of(_lines(entry))
            found.append(block)
    for address, row in _in_use(document, device):
        block = alive.get(address)
        if block is None:
            block = Block(address, row["size"])
            block.place = line_of(_lines(row))
            found.append(block)
        else:
            block.size = row["size"]  # with what was not worth a block of its own
    return found


def pieces(document, device):
    """How the memory taken from the driver is cut up now; bytes."""
    figures = dict.fromkeys(("reserved", "allocated", "free_segments", "free_parts", "largest_free"), 0)
    for segment in _segments(document, device):
        free = [row["size"] for row in segment["blocks"] if row["state"] == "inactive"]
        figures["reserved"] += segment["total_size"]
        figures["allocated"] += segment["allocated_size"]
        figures["free_segments" if segment["active_size"] == 0 else "free_parts"] += sum(free)
        figures["largest_free"] = max([figures["largest_free"], *free])
    return figures


def _segments(document, device):
    return [segment for segment in document["segments"] if segment.get("device", 0) == device]


def _trace(document, device):
    traces = document.get("device_traces") or []
    return traces[device] if device < len(traces) else []


def _in_use(document, device):
    """(address, block) of what tensors use now."""
    for segment in _segments(document, device):
        address = segment["address"]
        for row in segment["blocks"]:
            if row["state"] == "active_allocated":
                yield row.get("address", address), row
            address += row["size"]


def _time(entry):
    return entry.get("time_us", 0) * 1000


def _lines(row):
    return [(frame["filename"], frame["line"]) for frame in row.get("frames") or ()]


def _rounded(size):
    return -(-size // ROUND) * ROUND
