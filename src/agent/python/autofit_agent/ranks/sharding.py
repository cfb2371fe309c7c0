"""Parameters, gradients and optimizer state sharded over the ranks: FSDP2, block by block.

`fully_shard` puts new parameters into the modules.  What the script holds of the old ones is looked after:
optimizers are given the new ones, and clipping functions translate a list that the script took earlier.
What is saved is whole, as the plain script saves and loads it: every rank takes part in gathering it, since
every rank runs the same script, and what is loaded is sharded again.
"""

import functools
import weakref

from .. import blocks, patches

_CLIPPING = ("clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm")


class Sharding:
    """A root whose parameters are sharded."""

    def __init__(self, module, optimizers, offload, device, torch):
        self.torch = torch
        # id of an old parameter -> (the old one, the new one); weak, for the old ones are what takes room.
        self._new = {}
        before = dict(module.named_parameters(remove_duplicate=False))
        self._shard(module, offload, device)
        for name, parameter in module.named_parameters(remove_duplicate=False):
            self._new[id(before[name])] = (weakref.ref(before[name]), parameter)
        for optimizer in optimizers:
            self._rewire(optimizer)
        for inner in module.modules():
            if inner._parameters:
                # torch marks these hooks with an attribute, which a bound method cannot have.
                inner.register_state_dict_post_hook(functools.partial(self._saved))
                inner.register_load_state_dict_pre_hook(functools.partial(self._loading))
        for name in _CLIPPING:
            for owner in (torch.nn.utils.clip_grad, torch.nn.utils):
                if hasattr(owner, name):
                    patches.replace(owner, name, self._make_clip)

    def _shard(self, module, offload, device):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

        mesh = init_device_mesh(device, (self.torch.distributed.get_world_size(),))
        policy = CPUOffloadPolicy(pin_memory=device == "cuda") if offload else OffloadPolicy()
        repeated = blocks.find_blocks(module, self.torch)
        self.blocks = len(repeated.modules) if repeated is not None else 0
        for block in repeated.modules if repeated is not None else ():
            fully_shard(block, mesh=mesh, offload_policy=policy)
        fully_shard(module, mesh=mesh, offload_policy=policy)

    def counts(self):
        """(sharded parameters, all of them): the modules hold whole ones while they are put together."""
        parameters = {id(new): new for _, new in self._new.values()}
        return sum(hasattr(p, "full_tensor") for p in parameters.values()), len(parameters)

    def new(self, parameter):
        """The parameter that stands for this one now."""
        found = self._new.get(id(parameter))
        return found[1] if found is not None and found[0]() is parameter else parameter

    # Optimizers

    def _rewire(self, optimizer):
        for group in optimizer.param_groups:
            group["params"] = [self.new(p) for p in group["params"]]
        for old in list(optimizer.state):
            new = self.new(old)
            if new is not old:
                optimizer.state[new] = self._like(optimizer.state.pop(old), new)
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

    def _optimizer_saved(self, _optimizer, saved):
        state = {
            index: {name: whole(value) for name, value in values.items()}
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

    def _saved(self, module, saved, prefix, _metadata):
        for name in module._parameters:
            if prefix + name in saved:
                saved[prefix + name] = whole(saved[prefix + name])

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
