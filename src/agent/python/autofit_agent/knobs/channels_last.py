"""`channels_last`: convolutions compute with the channels of a pixel side by side in memory.

Their weights change their strides in place and stay the same Parameters; 4- and 5-dimensional inputs of the
root are converted at its call, and outputs of as many dimensions are handed back as the script expects them.
A model may rely on strides (`view` behind a convolution): the first call is tried without leaving a trace,
and a model that fails is left as it was.
"""

from .. import describe, tree
from ..checking import is_out_of_memory
from ..layouts import convolutions, formats, has_images, is_last
from ..untouched import Untouched
from .base import Knob


class ChannelsLast(Knob):
    name = "channels_last"
    layer = 20
    per_root = True
    serves = True

    def __init__(self, session, wanted, way):
        super().__init__(session, wanted, way)
        self.layers = {}  # id of a Root -> its convolutions
        self.tried = set()
        self.seen = 0  # outputs of convolutions in channels_last, in the calls that were tried
        self.names = []
        self.turned = []  # (tensor, its strides before)

    @classmethod
    def turns_between_steps(cls, _value):
        return True

    def requires(self, root, args, kwargs):
        module, torch = root.module, self.torch
        if not self.wanted:
            return None
        layers = convolutions(module, torch)
        if not layers:
            return "%s has no convolution over two or three dimensions" % root.name
        if not has_images(args, kwargs, torch):
            return "%s is not called with a batch of images" % root.name
        if any(is_last(m.weight, torch) for m in layers):
            return "the script uses channels_last by itself"
        wrapper = describe.distributed(module)
        if wrapper is not None:
            return "%s has sized its buckets by the strides" % wrapper
        return None

    def on_root(self, root, args, kwargs):
        # Other models of the script (a discriminator without convolutions) are left as they are.
        if root.index > 0 and self.layers and self.requires(root, args, kwargs) is not None:
            return
        super().on_root(root, args, kwargs)

    def apply(self, root, args, kwargs):
        if not self.wanted:
            return
        self.layers[id(root)] = convolutions(root.module, self.torch)
        for m in self.layers[id(root)]:
            weight = m._parameters["weight"]
            self._turn(weight)
            for tensor in self._beside(weight):  # there are some where it is turned between two steps
                self._turn(tensor)

    def _turn(self, tensor):
        self.turned.append((tensor, tensor.stride()))
        tensor.data = tensor.data.contiguous(memory_format=formats(self.torch)[tensor.dim()])

    def around(self, root, call, args, kwargs):
        if id(root) not in self.layers:
            return call(*args, **kwargs)
        torch = self.torch
        given = self._turned(args, kwargs)
        if id(root) not in self.tried:
            self.tried.add(id(root))
            why = self._fails(root, given)
            if why is not None:
                self._give_back()
                self.refuse(why)
                return call(*args, **kwargs)
            self.names.append(root.name)
        output = call(*given[0], **given[1])

        def usual(_, leaf):
            wide = isinstance(leaf, torch.Tensor) and leaf.dim() in (4, 5)
            return leaf.contiguous() if wide and is_last(leaf, torch) else leaf

        return tree.rebuild(output, usual)

    def _turned(self, args, kwargs):
        torch, wanted = self.torch, formats(self.torch)

        def turn(_, leaf):
            if isinstance(leaf, torch.Tensor) and leaf.dim() in wanted and leaf.is_floating_point():
                return leaf.contiguous(memory_format=wanted[leaf.dim()])
            return leaf

        return tree.rebuild(args, turn), tree.rebuild(kwargs, turn)

    def _fails(self, root, given):
        """None, or why the model cannot be called this way.  Looks at what its convolutions return."""
        torch, layers = self.torch, self.layers[id(root)]
        before = self.seen

        def look(_module, _args, output):
            if isinstance(output, torch.Tensor) and output.dim() in (4, 5):
                self.seen += bool(is_last(output, torch))

        # Normalisation writes its statistics behind autograd's back: all buffers are put back.
        buffers = [(b, b.detach().clone()) for b in root.module.buffers()]
        handles = [m.register_forward_hook(look) for m in layers]
        try:
            with Untouched(root.module, torch), torch.no_grad():
                root.module(*given[0], **given[1])
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return "%s fails with it: %s" % (root.name, str(error).strip().split("\n")[0][:200])
        finally:
            for handle in handles:
                handle.remove()
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)
        if self.seen == before:
            return "no convolution of %s returned its output in channels_last" % root.name
        return None

    def _give_back(self):
        torch = self.torch
        for layers in self.layers.values():
            for m in layers:  # gradients and state that came since have the strides of their weight
                known = {id(tensor) for tensor, _ in self.turned}
                weight = m._parameters["weight"]
                usual = next(strides for tensor, strides in self.turned if tensor is weight)
                for tensor in self._beside(weight):
                    if id(tensor) not in known and is_last(tensor, torch):
                        self.turned.append((tensor, usual))
        for tensor, strides in self.turned:
            data = tensor.data
            tensor.data = torch.empty_strided(
                data.shape, strides, dtype=data.dtype, device=data.device
            ).copy_(data)
        self.turned = []
        self.layers.clear()

    def _beside(self, weight):
        """Its gradient, and what optimizers keep for it element by element."""
        if weight.grad is not None:
            yield weight.grad
        for optimizer in list(self.session.roots.optimizers):
            if weight in optimizer.state:
                for tensor in optimizer.state[weight].values():
                    if isinstance(tensor, self.torch.Tensor) and tensor.shape == weight.shape:
                        yield tensor

    def verify(self):
        torch = self.torch
        modules = [root.module for root in self.session.roots.roots if root.module is not None]
        weights = [m.weight for module in modules for m in convolutions(module, torch)]
        turned = [weight for weight in weights if is_last(weight, torch)]
        self.objects = len(turned)
        if not self.wanted:
            self.how = "strides of the weights of convolutions"
            return bool(turned)
        if not self.tried:
            self.reason = "no call of a module with trainable parameters was seen"
            return None
        ours = [m.weight for layers in self.layers.values() for m in layers]
        left = sum(is_last(weight, torch) is False for weight in ours)
        if not self.seen or left:
            self.reason = "%d of %d weights are not in channels_last" % (left, len(weights))
            return None
        self.how = "weights of convolutions and inputs of %s; %d outputs of convolutions were" % (
            ", ".join(self.names),
            self.seen,
        )
        return True

    def undo(self):
        self._give_back()
