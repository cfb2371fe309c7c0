"""Gradients of copies of a model are averaged over the ranks, in buckets, while backward is still at work.

As DistributedDataParallel does it, with less asked of the script: a parameter may get no gradient in some
step, and a root may be called several times before backward.  A bucket is sent when the gradients of all its
parameters are there, and buckets go out in one order in all ranks; what is not complete when backward ends is
sent then.  Each carries a flag a parameter, so that a gradient which only other ranks have is not lost.

Where gradients are to be views, each moves into its bucket when that is sent, and stays there: of all
gradients but those of one bucket there is one copy at a time instead of two.
"""

BUCKET_MB = 25


class _Bucket:
    def __init__(self, parameters):
        self.parameters = parameters
        self.ready = set()
        self.work = None  # (handle, flat tensor) while it is under way

    def reset(self):
        self.ready.clear()
        self.work = None


class Reducer:
    """See the head of this file."""

    def __init__(self, parameters, torch, bucket_mb=BUCKET_MB, views=False):
        self.torch = torch
        self.bucket_mb = bucket_mb
        self.views = views
        self.ranks = torch.distributed.get_world_size()
        self.reductions = 0  # backward calls whose gradients were averaged
        self._buckets = list(self._fill(parameters))
        self._of = {id(p): (b, i) for b in self._buckets for i, p in enumerate(b.parameters)}
        self._next = 0  # the bucket that goes out next
        self._open = False  # a backward is at work
        self._handles = [p.register_post_accumulate_grad_hook(self._ready) for p in parameters]

    def _fill(self, parameters):
        """Buckets of one device and type, in the order in which backward comes to them."""
        kind, filled, size = None, [], 0
        for p in reversed(parameters):
            bytes_of = p.numel() * p.element_size()
            if filled and (kind != (p.device, p.dtype) or size + bytes_of > self.bucket_mb << 20):
                yield _Bucket(filled)
                filled, size = [], 0
            kind = (p.device, p.dtype)
            filled.append(p)
            size += bytes_of
        if filled:
            yield _Bucket(filled)

    def is_alone_at(self, parameter):
        """Whether no other hook than the reducer's looks at this parameter's gradient."""
        hooks = parameter._post_accumulate_grad_hooks
        return id(parameter) in self._of and len(hooks) == 1 and not parameter._backward_hooks

    def remove(self):
        for handle in self._handles:
            handle.remove()

    def _ready(self, parameter):
        if not self._open:
            self._open = True
            self.torch.autograd.Variable._execution_engine.queue_callback(self._finish)
        bucket, index = self._of[id(parameter)]
        bucket.ready.add(index)
        while self._next < len(self._buckets):
            bucket = self._buckets[self._next]
            if len(bucket.ready) < len(bucket.parameters):
                return
            self._send(bucket)

    def _send(self, bucket):
        torch = self.torch
        pieces = []
        for p in bucket.parameters:
            pieces.append((p.grad if p.grad is not None else torch.zeros_like(p)).detach().flatten())
        flags = [float(p.grad is not None) for p in bucket.parameters]
        flat = torch.cat([*pieces, pieces[0].new_tensor(flags)])
        flat /= self.ranks
        if self.views:
            del pieces
            self._move(bucket, flat)
        bucket.work = (torch.distributed.all_reduce(flat, async_op=True), flat)
        self._next += 1

    def _move(self, bucket, flat):
        """The gradients are parts of the bucket from here on; one with strides of its own stays as it is."""
        for p, part in self._parts(bucket, flat):
            if p.grad is not None and p.grad.is_contiguous():
                p.grad = part

    def _parts(self, bucket, flat):
        """(parameter, its part of the bucket)."""
        start = 0
        for p in bucket.parameters:
            yield p, flat[start : start + p.numel()].view(p.shape)
            start += p.numel()

    def _finish(self):
        """Backward is over."""
        while self._next < len(self._buckets):
            self._send(self._buckets[self._next])
        for bucket in self._buckets:
            handle, flat = bucket.work
            handle.wait()
            missing = any(p.grad is None for p in bucket.parameters)
            flags = flat[-len(bucket.parameters) :].tolist() if missing else None
            for index, (p, mean) in enumerate(self._parts(bucket, flat)):
                if p.grad is None:
                    if flags[index] > 0:
                        p.grad = mean if self.views else mean.clone()
                elif p.grad.data_ptr() != mean.data_ptr():
                    p.grad.copy_(mean)
            bucket.reset()
        self._next, self._open = 0, False
        self.reductions += 1
