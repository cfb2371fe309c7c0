"""Outputs that are only computed when the script looks at them.

Where each part's gradient is taken at once, a root's other outputs (logits) would have to be kept for the
whole batch, though most training loops never look at them.  These stand in for them: their shape, type and
device are known, and anything else asks `source.value()` for the real thing.
"""


def make_tensor_class(torch):
    """The class of tensors that are not there yet."""
    tensor = torch.Tensor
    answered = {
        tensor.shape.__get__, tensor.dtype.__get__, tensor.device.__get__, tensor.ndim.__get__,
        tensor.layout.__get__, tensor.is_cuda.__get__,
        tensor.dim, tensor.ndimension, tensor.size, tensor.numel, tensor.nelement, tensor.stride,
        tensor.__len__, tensor.is_floating_point, tensor.is_complex, tensor.element_size,
    }  # fmt: skip
    if hasattr(tensor, "names"):  # no more from PyTorch 2.15 on
        answered.add(tensor.names.__get__)
    needs = tensor.requires_grad.__get__

    class LateTensor(tensor):
        @staticmethod
        def __new__(cls, shape, dtype, device, source):
            made = tensor._make_wrapper_subclass(cls, tuple(shape), dtype=dtype, device=device)
            made._autofit_source = source
            return made

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            kwargs = kwargs or {}
            if function in answered:
                with torch._C.DisableTorchFunctionSubclass():
                    return function(*args, **kwargs)
            if function == needs and isinstance(args[0], LateTensor):
                return args[0].__dict__["_autofit_source"].requires_grad
            args, kwargs = _real(args), _real(kwargs)
            return function(*args, **kwargs)

        @classmethod
        def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
            return function(*_real(args), **_real(kwargs or {}))

    def _real(value):
        if isinstance(value, LateTensor):
            return value.__dict__["_autofit_source"].value()
        if type(value) in (tuple, list):
            return type(value)(_real(v) for v in value)
        if type(value) is dict:
            return {k: _real(v) for k, v in value.items()}
        return value

    return LateTensor


def source_of(made):
    """Where a late tensor comes from."""
    return made.__dict__["_autofit_source"]


class LateObject:
    """Stands for an object (a key-value cache) that only a call with the whole batch can make."""

    __slots__ = ("_autofit_class", "_autofit_source")

    def __init__(self, cls, source):
        object.__setattr__(self, "_autofit_class", cls)
        object.__setattr__(self, "_autofit_source", source)

    @property
    def __class__(self):
        return object.__getattribute__(self, "_autofit_class")

    def __getattr__(self, name):
        return getattr(object.__getattribute__(self, "_autofit_source").value(), name)

    def __setattr__(self, name, value):
        setattr(object.__getattribute__(self, "_autofit_source").value(), name, value)

    def __len__(self):
        return len(object.__getattribute__(self, "_autofit_source").value())

    def __iter__(self):
        return iter(object.__getattribute__(self, "_autofit_source").value())

    def __getitem__(self, key):
        return object.__getattribute__(self, "_autofit_source").value()[key]

    def __bool__(self):
        return bool(object.__getattribute__(self, "_autofit_source").value())
