"""Which of several ranks this process is, as its launcher has said in the environment."""

import contextlib
import os

# What torchrun sets for its processes, and what scripts look at to find out whether they are distributed.
_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PREFIXES = ("GROUP_", "ROLE_", "TORCHELASTIC_")
# For the processes that this one starts: they are of this rank, and not ranks themselves.
RANK, WORLD = "AUTOFIT_RANK", "AUTOFIT_WORLD_SIZE"

_here = [None]


class Layout:
    """This process among those that train together."""

    def __init__(self, variables):
        self.variables = variables
        self.rank = int(variables["RANK"])
        self.local_rank = int(variables.get("LOCAL_RANK", self.rank))
        self.world_size = int(variables["WORLD_SIZE"])
        self.local_world_size = int(variables.get("LOCAL_WORLD_SIZE", self.world_size))  # those of its node
        # The same in all of them, another one in the next run.
        self.run = variables.get("TORCHELASTIC_RUN_ID", "")

    @contextlib.contextmanager
    def in_environment(self):
        """The launcher's variables are there for a moment."""
        os.environ.update(self.variables)
        try:
            yield
        finally:
            for name in self.variables:
                os.environ.pop(name, None)


def here():
    """The layout, or None where this process trains alone or the script distributes by itself."""
    return _here[0]


def enter():
    """Takes the launcher's variables out of the environment; None where there are none."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    names = [name for name in os.environ if name in _VARIABLES or name.startswith(_PREFIXES)]
    _here[0] = Layout({name: os.environ.pop(name) for name in names})
    os.environ[RANK] = str(_here[0].rank)
    os.environ[WORLD] = str(_here[0].world_size)
    return _here[0]


def take_device(local_rank):
    """This rank's GPU becomes the only one, so that `cuda` and `cuda:0` in the script mean it."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = [d for d in visible.split(",") if d] if visible is not None else None
    if devices is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(local_rank)
    elif local_rank < len(devices):
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[local_rank]
