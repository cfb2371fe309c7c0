"""Parameters, gradients and optimizer state sharded over the ranks: FSDP2, block by block.

`fully_shard` puts new parameters into the modules.  What the script holds of the old ones is looked after:
optimizers are given the new ones, and clipping functions translate a list that the script took earlier.
What is saved is whole, as the plain script saves and loads it: every rank takes part in gathering it, since
every rank runs the same script, and what is loaded is sharded again.  Copies of the model are sharded too
(`copies.py`).
"""

import collections
import functools
import weakref

from .. import blocks, patches
from . import copies
from .written import Written

_MARKS = ("_is_fsdp_managed_module", "_fsdp_use_orig_params")
_CLIPPING = ("clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm")


class Sharding:
    """A root whose parameters are sharded, and its copies."""

    shards_copies = True

    def __init__(self, module, others, optimizers, offload, device, torch, group=None):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy

        self.torch = torch
        ranks = torch.distributed.get_world_size()
        # `group`: ranks that share one copy of the model, of which there are then several.
        shape = (ranks,) if group is None else (ranks // group, group)
        names = None if group is None else ("replicate", "shard")
        self._mesh = init_device_mesh(device, shape, mesh_dim_names=names)
        self._policy = CPUOffloadPolicy(pin_memory=device == "cuda") if offload else OffloadPolicy()
        # id of an old parameter -> (the old one, the new one); weak, for the old ones are what takes room and
        # copies come and go.
        self._new = {}
        self._classes = set()  # those that FSDP has made
        self._tops = weakref.WeakSet()
        self._written = Written(self._write)
        self._tied = {}  # id of a parameter with several names -> its latest whole (weak), or None
        found = blocks.find_blocks(module, torch)
        self.blocks = len(found.modules) if found is not None else 0
        self._shard(module)
        self._mine = list(module.parameters())
        for other in others:
            self._shard(other)
        for optimizer in optimizers:
            self._rewire(optimizer)
        for name in _CLIPPING:
            for owner in (torch.nn.utils.clip_grad, torch.nn.utils):
                if hasattr(owner, name):
                    patches.replace(owner, name, self._make_clip)

    def _shard(self, module):
        from torch.distributed.fsdp import fully_shard

        before = dict(module.named_parameters(remove_duplicate=False))
        repeated = blocks.find_blocks(module, self.torch)
        for part in (*(repeated.modules if repeated is not None else ()), module):
            fully_shard(part, mesh=self._mesh, offload_policy=self._policy)
            self._unmark(part)
        for name, parameter in module.named_parameters(remove_duplicate=False):
            key = id(before[name])
            gone = functools.partial(self._gone, key)
            self._new[key] = (weakref.ref(before[name], gone), weakref.ref(parameter))
        names = collections.Counter(id(p) for _, p in module.named_parameters(remove_duplicate=False))
        self._tied.update((key, None) for key, count in names.items() if count > 1)
        for inner in module.modules():
            if inner._parameters:
                # torch marks these hooks with an attribute, which a bound method cannot have.
                inner.register_state_dict_post_hook(functools.partial(self._saved))
                inner.register_load_state_dict_pre_hook(functools.partial(self._loading))
        module.register_forward_pre_hook(self._before_call, prepend=True)
        module.register_forward_hook(self._after_call)
        self._tops.add(module)

    def _unmark(self, part):
        """Libraries go by the names of classes, and some do something else where they find FSDP's marks.

        The marks are for the compiler, and what is sharded is not compiled.
        """
        kind = type(part)
        if kind not in self._classes:
            self._classes.add(kind)
            plain = kind.__mro__[2]  # behind the class that was made for it and FSDPModule
            kind.__name__, kind.__qualname__ = plain.__name__, plain.__qualname__
            patches.replace(kind, "__deepcopy__", self._make_deepcopy)
        for inner in part.modules():
            for mark in _MARKS:
                inner.__dict__.pop(mark, None)

    # Copies

    def _make_deepcopy(self, _original):
        def __deepcopy__(module, memo):
            made = self.plain(module, memo)
            if module in self._tops and self.shards_copies:
                self._shard(made)
            return made

        return __deepcopy__

    def plain(self, module, memo):
        """A copy that is not sharded."""
        self._written.take()
        for inner in module.modules():
            if hasattr(inner, "unshard"):
                inner.reshard()
        return copies.plain(module, memo, self._classes, self._whole_parameter)

    def _before_call(self, *_):
        self._written.take()

    def _after_call(self, module, _args, _output):
        """Without gradients no backward follows, after which FSDP would take the parameters apart again."""
        if not self.torch.is_grad_enabled() or not any(p.requires_grad for p in module.parameters()):
            module.reshard()

    def read_back(self):
        """What is sharded, in words; and what is not that should be, or None.

        The modules hold whole parameters while they are put together.
        """
        sharded, of = sum(self._is_sharded(p) for p in self._mine), len(self._mine)
        words = "%d of %d parameters are sharded" % (sharded, of)
        if self._mesh.ndim > 1:
            words += " in each of %d groups of %d processes" % tuple(self._mesh.shape)
        if self.blocks:
            words += ", %d blocks one by one" % self.blocks
        return words, "%d parameters are not sharded" % (of - sharded) if sharded < of else None

    def _is_sharded(self, parameter):
        """Over the last dimension of the mesh, and the same along the other one."""
        if not hasattr(parameter, "full_tensor") or parameter.device_mesh != self._mesh:
            return False
        *copies, part = parameter.placements
        return part.is_shard() and all(one.is_replicate() for one in copies)

    def parameters(self):
        """The root's sharded parameters, each once."""
        return self._mine

    def new(self, parameter):
        """The parameter that stands for this one now."""
        found = self._new.get(id(parameter))
        return found[1]() if found is not None and found[0]() is parameter else parameter

    def _gone(self, key, _reference):
        self._new.pop(key, None)

    # Optimizers

    def _rewire(self, optimizer):
        for group in optimizer.param_groups:
            group["params"] = [self.new(p) for p in group["params"]]
        for old in list(optimizer.state):
            new = self.new(old)
            if new is not old:
                optimizer.state[new] = self._like(optimizer.state.pop(old), new)
        self.adopt(optimizer)

    def adopt(self, optimizer):
        """What this optimizer of sharded parameters saves is whole, and what it loads is sharded."""
        optimizer.register_state_dict_post_hook(self._optimizer_saved)
        optimizer.register_load_state_dict_pre_hook(self._optimizer_loading)

    def _like(self, state, parameter):
        """An optimizer's state of one parameter, sharded as that is."""
        shape = parameter.shape
        return {
            name: self._sharded(value, parameter)
            if self._is_whole(value) and value.shape == shape and value.dim() > 0
            else value
            for name, value in state.items()
        }

    def _optimizer_saved(self, optimizer, saved):
        state = {
            index: {name: self._whole_state(optimizer, index, name, value) for name, value in values.items()}
            for index, values in saved["state"].items()
        }
        return {**saved, "state": state}

    def _optimizer_loading(self, optimizer, loaded):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        indices = [index for group in loaded["param_groups"] for index in group["params"]]
        state = dict(loaded["state"])
        for index, parameter in zip(indices, parameters):
            if index in state:
                state[index] = self._like(state[index], parameter)
        return {**loaded, "state": state}

    # Modules

    def _whole_parameter(self, parameter):
        return whole(parameter.detach())

    def _whole_state(self, _optimizer, _index, _name, value):
        return whole(value)

    def _saved(self, module, saved, prefix, _metadata):
        self._written.take()
        for name, parameter in module._parameters.items():
            value = saved.get(prefix + name)
            if hasattr(value, "full_tensor"):
                saved[prefix + name] = self._whole_in(saved, parameter)

    def _whole_in(self, saved, parameter):
        """Parameters that are tied are one tensor in what is saved too: some savers look for that."""
        latest = self._tied.get(id(parameter))
        there = latest() if latest is not None else None
        if there is not None and any(value is there for value in saved.values()):
            return there
        made = self._whole_parameter(parameter)
        self._written.watch(made, parameter)
        if id(parameter) in self._tied:
            self._tied[id(parameter)] = weakref.ref(made)
        return made

    def _write(self, parameter, value):
        parameter.detach().to_local().copy_(self._sharded(value, parameter).to_local())

    def _loading(self, module, loaded, prefix, *_):
        for name, parameter in module._parameters.items():
            value = loaded.get(prefix + name)
            if self._is_whole(value) and parameter is not None and value.shape == parameter.shape:
                loaded[prefix + name] = self._sharded(value, parameter)

    def _is_whole(self, value):
        return isinstance(value, self.torch.Tensor) and not hasattr(value, "full_tensor")

    def _sharded(self, value, parameter):
        """Every rank has the whole and keeps its part: nothing is sent."""
        from torch.distributed.tensor import distribute_tensor

        device = parameter.to_local().device
        value = value.detach().to(device if device.type == parameter.device_mesh.device_type else "cpu")
        made = distribute_tensor(
            value.to(parameter.device_mesh.device_type),
            parameter.device_mesh,
            parameter.placements,
            src_data_rank=None,
        )
        return made.to(device) if made.to_local().device != device else made

    # Clipping

    def _make_clip(self, original):
        def clip(parameters, *args, **kwargs):
            if isinstance(parameters, self.torch.Tensor):
                parameters = [parameters]
            return whole(original([self.new(p) for p in parameters], *args, **kwargs))

        return clip


def whole(value):
    """A sharded tensor put together; anything else as it is."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def why_not(module, torch):
    """None, or why this model is not sharded."""
    from torch.distributed import fsdp

    if not hasattr(fsdp, "CPUOffloadPolicy"):
        return "PyTorch %s does not have FSDP2 yet, which came with 2.6" % torch.__version__
    parameters = list(module.parameters())
    if any(p.device.type == "cpu" for p in parameters) and not hasattr(torch.cpu.Stream, "record_event"):
        return "on the processor PyTorch shards from 2.7 on, and this is %s" % torch.__version__
    if len({p.dtype for p in parameters}) > 1:
        return "its parameters are of several types, and what is sharded together must be of one"
    if any(m.__dict__.get("_compiled_call_impl") is not None for m in module.modules()):
        return "it is compiled by the script"
    if any(type(m).__name__ == "OptimizedModule" for m in module.modules()):
        return "it is compiled by the script"
    if any(hasattr(m, "parametrizations") for m in module.modules()):
        return "a parametrization makes its parameters anew in each call"
    if any(p.dim() == 0 for p in parameters):
        return "it has a parameter without dimensions, which cannot be sharded"
    return None
