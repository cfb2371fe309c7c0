"""For scripts that read STL-10 or CIFAR-10: made-up files do not have the checksums of the real ones."""

import importlib.abc
import sys


class Unchecked(importlib.abc.MetaPathFinder):
    """Once torchvision's helper is imported, a file that is there counts as whole."""

    def find_spec(self, name, path=None, target=None):
        if name != "torchvision.datasets.utils":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            check = module.check_integrity
            module.check_integrity = lambda path, md5=None: check(path)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Unchecked())
