"""The repeated blocks of a model: what checkpointing acts on."""


def is_lazy(parameter):
    """A parameter of a LazyLinear and the like, which has no shape before its first call."""
    return type(parameter).__name__ == "UninitializedParameter"


class Blocks:
    """Modules of one class that stand side by side in one or several containers."""

    def __init__(self, paths, modules):
        self.paths = paths
        self.modules = modules

    @property
    def block_class(self):
        return type(self.modules[0])

    @property
    def path(self):
        return ", ".join(self.paths)

    def parameters(self):
        seen = {}
        for module in self.modules:
            for parameter in module.parameters():
                if not is_lazy(parameter):
                    seen[id(parameter)] = parameter.numel()
        return sum(seen.values())


def find_blocks(root, torch):
    """The class of repeated children in ModuleLists, Sequentials and ModuleDicts that holds most parameters.

    Containers that hold the same class count together, so that the stages of a ResNet give its bottlenecks.
     A block has modules inside (a lone Linear has nothing to recompute).  None where nothing repeats.
    """
    nn = torch.nn
    groups = {}
    for name, container in root.named_modules():
        if not isinstance(container, (nn.ModuleList, nn.Sequential, nn.ModuleDict)):
            continue
        for child in container.children():
            if next(child.children(), None) is None or next(child.parameters(), None) is None:
                continue
            if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
                continue  # has no forward of its own
            paths, modules = groups.setdefault(type(child), ([], []))
            if name not in paths:
                paths.append(name)
            if not any(module is child for module in modules):
                modules.append(child)
    found = [Blocks(paths, modules) for paths, modules in groups.values() if len(modules) > 1]
    if not found:
        return None
    weights = [(blocks.parameters(), blocks) for blocks in found]
    heaviest = max(weight for weight, _ in weights)
    if heaviest == 0:
        return None
    # Nested groups hold nearly the same parameters: the outer one is the block, unless it is a plain
    # Sequential, which is a stage of blocks.
    close = [blocks for weight, blocks in weights if weight >= 0.98 * heaviest]
    named = [blocks for blocks in close if blocks.block_class is not nn.Sequential]
    return (named or close)[0]


def blocks_info(blocks, total):
    """`BlocksInfo` of the contract."""
    if blocks is None:
        return None
    return {
        "path": blocks.path,
        "class": blocks.block_class.__name__,
        "count": len(blocks.modules),
        "share": round(blocks.parameters() / total, 6) if total else 0.0,
    }
