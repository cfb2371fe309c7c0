"""What the script writes into a `state_dict` goes to the sharded parameters.

In a plain script these are the parameters' own storages: averages of weights are kept that way (`for a, b in
zip(average.state_dict().values(), model.state_dict().values()): a.copy_(...)`), and weights are filled in.
Of a sharded model they are whole copies.  They are looked at when the script lets go of them, and before the
parameters are used.
"""

import weakref


class Written:
    """Whole tensors that the script holds, and the parameters that they were made from."""

    def __init__(self, put):
        self._put = put  # function(parameter, whole)
        self._held = {}  # number -> [alias, its version, parameter]
        self._count = 0

    def watch(self, tensor, parameter):
        """`tensor` is the whole of `parameter`."""
        if tensor.is_inference():
            return  # has no versions
        alias = tensor.detach()  # with the same storage and counter of versions
        self._count += 1
        self._held[self._count] = [alias, alias._version, parameter]
        weakref.finalize(tensor, self._released, self._count).atexit = False

    def take(self):
        """Writes to the parameters what was written since the last look."""
        for number in list(self._held):
            self._look(number)

    def _look(self, number):
        entry = self._held[number]
        alias, version, parameter = entry
        if alias._version != version:
            entry[1] = alias._version
            self._put(parameter, alias)

    def _released(self, number):
        if number in self._held:
            self._look(number)
            del self._held[number]
