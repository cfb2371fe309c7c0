"""Copies of a sharded model: an average of its weights, a teacher.

A script makes them with `copy.deepcopy` (as `torch.optim.swa_utils.AveragedModel` does) or builds a second
model and loads the first one's weights.  What it does with them afterwards joins parameters one by one, so a
copy must be sharded as its model is: those that are there when that is sharded are looked for, and a copy
that is made later is sharded when it is made.
"""

import contextlib
import copy
import gc
import sys

_HOOKS = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
)
_NOT_THEIRS = ("torch.distributed", __name__.split(".", maxsplit=1)[0])  # whose hooks a copy does not take


def find(module):
    """Other models of the same make, on the same device."""
    mine, makeup = {id(inner) for inner in module.modules()}, _makeup(module)
    kind, own = type(module), {id(p) for p in module.parameters()}
    # By the type alone: objects may pretend to be of another class, and run code when they are asked.
    others = [thing for thing in gc.get_objects() if type(thing) is kind and id(thing) not in mine]
    return [
        one for one in others if _makeup(one) == makeup and not any(id(p) in own for p in one.parameters())
    ]


def _makeup(module):
    named = module.named_parameters(remove_duplicate=False)
    return [(name, p.shape, p.dtype, p.device) for name, p in named]


def plain(module, memo, classes, whole):
    """A copy that is not sharded.

    `classes` are those that FSDP has made, `whole` makes a whole tensor of a sharded one.
    """
    nn = sys.modules["torch"].nn
    for parameter in module.parameters():
        if id(parameter) not in memo and hasattr(parameter, "full_tensor"):
            memo[id(parameter)] = nn.Parameter(whole(parameter), parameter.requires_grad)
    with contextlib.ExitStack() as stack:
        for inner in module.modules():
            _strip(inner, classes, stack)
        return copy.deepcopy(module, memo)


def _strip(module, classes, stack):
    """Takes what sharding has added away, and gives it back when `stack` is closed."""
    own, kind = module.__dict__, type(module)
    kept = dict(own)

    def restore():
        own.clear()
        own.update(kept)
        module.__class__ = kind

    stack.callback(restore)
    if kind in classes:
        module.__class__ = kind.__mro__[2]  # behind the class that was made for it and FSDPModule
    for name in [name for name in own if "composable" in name]:
        del own[name]
    for name in _HOOKS:
        hooks = own.get(name)
        if hooks:
            own[name] = type(hooks)((key, hook) for key, hook in hooks.items() if _is_theirs(hook))


def _is_theirs(hook):
    """Whether a hook is the script's."""
    hook = getattr(hook, "hook", hook)  # torch wraps some
    hook = getattr(hook, "func", hook)
    return not (getattr(hook, "__module__", None) or "").startswith(_NOT_THEIRS)
