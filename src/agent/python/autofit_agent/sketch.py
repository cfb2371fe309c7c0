"""A long vector in a few numbers: its norm, its sum and a count sketch.

Each element is added, with a fixed random sign, to one of `WIDTH` sums.  The sketch is linear, so that the
sketch of a difference is the difference of the sketches, and the square of its length is on average the
square of the vector's: runs are compared by their sketches, and a change needs no copy of what was before.
"""

WIDTH = 16
_SEED = 20240
# Elements at a time, in double precision: half a MiB on the host, so that no peak of training is raised by
# it; on a device each kernel's start counts.
_CHUNK = {"cpu": 1 << 16}
_DEVICE_CHUNK = 1 << 20

_signs = {}


def _signs_on(device, torch):
    if device not in _signs:
        chunk = _CHUNK.get(device.type, _DEVICE_CHUNK)
        generator = torch.Generator().manual_seed(_SEED)  # of its own: the script's random state stays
        bits = torch.randint(0, 2, (chunk,), generator=generator, dtype=torch.int8)
        _signs[device] = (bits * 2 - 1).to(device=device, dtype=torch.float64)
    return _signs[device]


class Sketch:
    """Of all tensors that are added, in their order."""

    def __init__(self, torch, salt=0):
        self._torch = torch
        self._sums = []  # [square, sum, signed sums] of each device
        self._chunks = salt  # sketches that are joined differ in it
        self.count = 0

    def add(self, tensor):
        """Takes a tensor's elements in the order of their indices, whatever their order in memory."""
        tensor = tensor.detach()
        if tensor.is_complex():
            tensor = self._torch.view_as_real(tensor.resolve_conj())
        if tensor.numel() == 0:
            return
        self.count += tensor.numel()
        signs = _signs_on(tensor.device, self._torch)
        if tensor.dim() == 0:
            tensor = tensor.reshape(1)
        row = tensor[0].numel()
        rows = max(1, len(signs) // row)
        for start in range(0, tensor.shape[0], rows):
            flat = tensor.narrow(0, start, min(rows, tensor.shape[0] - start)).reshape(-1)
            for part in flat.split(len(signs)):
                self._chunk(part, signs)

    def _chunk(self, part, signs):
        torch = self._torch
        self._chunks += 1
        part = part.to(torch.float64)
        square, total = torch.dot(part, part), part.sum()
        part = part * signs[: part.numel()]
        if part.numel() % WIDTH:
            part = torch.nn.functional.pad(part, (0, WIDTH - part.numel() % WIDTH))
        buckets = part.view(-1, WIDTH).sum(0)
        # Chunks share their signs: a sign for each chunk keeps equal errors from piling up.
        if (self._chunks * 0x9E3779B1 >> 16) & 1:
            buckets = -buckets
        for sums in self._sums:
            if sums[0].device == part.device:
                sums[0] += square
                sums[1] += total
                sums[2] += buckets
                return
        self._sums.append([square, total, buckets])

    def numbers(self):
        """As told to the launcher; waits for the device."""
        square, total, buckets = 0.0, 0.0, [0.0] * WIDTH
        for s, t, b in self._sums:
            square += float(s)
            total += float(t)
            buckets = [x + y for x, y in zip(buckets, b.tolist())]
        norm = square**0.5 if square >= 0 else square  # NaN stays NaN
        mean = total / self.count if self.count else 0.0
        return {"count": self.count, "norm": norm, "mean": mean, "sketch": buckets}


def join(parts):
    """The `numbers()` of several sketches as those of one long vector."""
    count = sum(p["count"] for p in parts)
    return {
        "count": count,
        "norm": sum(p["norm"] ** 2 for p in parts) ** 0.5,
        "mean": sum(p["mean"] * p["count"] for p in parts) / count if count else 0.0,
        "sketch": [sum(column) for column in zip(*(p["sketch"] for p in parts))],
    }


def change(before, after):
    """The sketch of what has happened between two `numbers()` of the same tensors."""
    return [b - a for a, b in zip(before["sketch"], after["sketch"])]
