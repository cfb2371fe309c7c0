"""The root modules: those whose call the training loop makes.

A root is a module called at depth 0 with gradients on and with trainable parameters; in a script that never
trains (`inference.py`), one called at depth 0 with any parameters.  Until the roots are known,
`Module.__call__` is replaced by a function that looks for them; afterwards only the classes of the roots
carry a wrapper, so that other modules pay nothing.  The wrapper belongs to the class and asks for the
instance: copies and pickles of a model take nothing of it along, and another instance of the class (a frozen
teacher) passes through.

The very first call of a root already runs with the settings: `on_found` comes before it.
"""

import contextlib
import threading
import weakref

from . import describe, imports, patches, sequence
from .compiling import is_compiling
from .updates import parameters_of


def install(session):
    """Looks for roots once torch is there."""

    def ready(torch):
        session.torch = torch
        session.roots = Roots(session, torch)
        session.roots.install()
        built = session.guard("root.optimizer_built")(session.roots.optimizer_built)

        def make(original):
            def __init__(optimizer, *args, **kwargs):
                original(optimizer, *args, **kwargs)
                built(optimizer)

            return __init__

        patches.replace(torch.optim.Optimizer, "__init__", make)
        session.on_step(session.roots.optimizer_stepped)

    imports.on_import("torch", ready)


class _Depth(threading.local):
    value = 0


class Root:
    """One root module and what is known about it."""

    def __init__(self, index, module, torch):
        self.index = index
        self.torch = torch
        self._module = weakref.ref(module)
        self.name = type(module).__name__
        self.calls = 0
        self.training_calls = 0  # of a root that serves: all calls
        self.serves = False  # the script only ever calls it without gradients
        self.info = None
        self.batch_dim = 0  # of its first tensor argument; None where that cannot be told
        self.compiled = is_compiled(module)  # by the script
        self.traced = self.compiled  # by whomever: what runs inside is not seen call by call

    @property
    def module(self):
        return self._module()


def is_compiled(module):
    """Whether torch.compile is in use for it, as a wrapper or in place."""
    return any(
        type(m).__name__ == "OptimizedModule" or m.__dict__.get("_compiled_call_impl") is not None
        for m in module.modules()
    )


class Roots:
    """Finds roots and runs their calls through layers.

    layers: objects with `around(root, call, args, kwargs)`, outermost first; each gets the next one as
    `call`. on_found(root, args, kwargs): before the first call. on_first_output(root): after the first call
    with gradients. on_other(module): the first call of a module that is no root, while roots are looked for.
    The hooks in `session.root_calls` are told of every call, with the module itself.
    """

    FIRST_LOOK = 2  # optimizer steps before the search for roots may end
    LAST_LOOK = 512  # ... and steps without an end after which the wrapper is taken away all the same
    NO_CALLS = 8  # steps without any call of a module: what is called later is not what is trained

    def __init__(self, session, torch):
        self.session = session
        self.torch = torch
        self.roots = []
        self.layers = []
        self.on_found = []
        self.on_first_output = []
        self.on_other = []
        self.detecting = False
        self.serving = False  # the script was seen to work without ever training
        self.optimizers = weakref.WeakSet()
        self.steps = 0
        self._known = {}
        self._others = {}  # id of a module that is no root -> (weak reference, layer of its calls or None)
        self._depth = _Depth()
        self._wrapped = {}
        self._plain_call = None
        self._detector = None
        self._broken = []  # hooks that raised; they are not called again
        self._listed = (None, 0)  # the list of hooks that `_moments` was made from, and its length then
        self._moments = {"before": [], "after": [], "failed": []}  # (hook, its method) each

    # Finding.

    def install(self):
        """Starts looking."""
        if self.detecting:
            return
        module_class = self.torch.nn.Module
        compiling = is_compiling(self.torch)
        depth = self._depth
        plain = module_class.__call__

        def __call__(module, *args, **kwargs):
            if compiling() or depth.value:
                return plain(module, *args, **kwargs)
            if self._is_root(module, args, kwargs):
                self._register(module, args, kwargs)
            elif not self.on_other or not self._new_other(module):
                return plain(module, *args, **kwargs)
            return type(module).__call__(module, *args, **kwargs)

        self._plain_call = plain
        self._detector = __call__
        module_class.__call__ = __call__
        self.detecting = True

    def uninstall(self):
        """Stops looking; the roots that are known keep their wrappers."""
        if not self.detecting:
            return
        module_class = self.torch.nn.Module
        if module_class.__call__ is self._detector:
            module_class.__call__ = self._plain_call
            self.detecting = False

    def undo(self):
        """Takes everything away again."""
        self.uninstall()
        for cls, (own, ours) in list(self._wrapped.items()):
            if cls.__dict__.get("__call__") is ours:
                if own is None:
                    del cls.__call__
                else:
                    cls.__call__ = own
        self._wrapped.clear()

    def release(self):
        """Takes the roots' wrappers away where nothing is done in their calls (any more)."""
        if not self.detecting and not self.layers and not self.session.root_calls:
            self.undo()
            self._known.clear()
            self._others.clear()

    def optimizer_built(self, optimizer):
        """A new optimizer may train a module that was not called yet."""
        self.optimizers.add(optimizer)
        self.serving = False
        if not self.detecting:
            self.steps = 0
            self.install()

    def optimizer_stepped(self, _index=None):
        """Ends the search once every optimizer's parameters belong to known roots."""
        self.steps += 1
        if not self.detecting or self.steps < self.FIRST_LOOK or self.steps & (self.steps - 1):
            return  # look at steps 2, 4, 8, ...: the look walks over all parameters
        enough = self._all_owned() if self.roots else self.steps >= self.NO_CALLS
        if enough or self.steps >= self.LAST_LOOK:
            self.uninstall()

    def _all_owned(self):
        owned = set()
        for root in self.roots:
            module = root.module
            if module is not None:
                owned.update(id(p) for p in module.parameters())
        for optimizer in list(self.optimizers):
            if any(p.requires_grad and id(p) not in owned for p in parameters_of(optimizer)):
                return False
        return True

    def of(self, module):
        """The root that this module is, or None."""
        found = self._known.get(id(module))
        return found[0] if found is not None and found[1]() is module else None

    def inside(self):
        """Whether this thread is in a root's call."""
        return self._depth.value > 0

    @contextlib.contextmanager
    def hidden(self):
        """Calls inside are the agent's own: no layer and no hook sees them."""
        self._depth.value += 1
        try:
            yield
        finally:
            self._depth.value -= 1

    def tracing(self):
        """Whether torch.jit or torch.fx is recording."""
        torch = self.torch
        if torch._C._get_tracing_state() is not None:
            return True
        return bool(getattr(torch.fx._symbolic_trace, "_is_fx_tracing_flag", False))

    def passes_through(self, args, kwargs):
        """Whether a call belongs to a recompute in backward or to a tracer."""
        torch = self.torch
        if torch._C._current_graph_task_id() != -1 or self.tracing():
            return True
        fx = torch.fx
        return any(isinstance(arg, fx.Proxy) for arg in args) or any(
            isinstance(arg, fx.Proxy) for arg in kwargs.values()
        )

    def at_work(self):
        """Whether a root's call now is what is measured, not evaluation beside it."""
        return self.serving or self.torch.is_grad_enabled()

    def _is_root(self, module, args, kwargs):
        if not self.at_work() or self.passes_through(args, kwargs):
            return False
        return any(p.requires_grad or self.serving for p in module.parameters())

    def _register(self, module, args, kwargs):
        root = Root(len(self.roots), module, self.torch)
        root.serves = self.serving
        self.roots.append(root)
        key = id(module)
        known = self._known

        def forget(_, key=key):
            known.pop(key, None)

        known[key] = (root, weakref.ref(module, forget))
        self._wrap_class(type(module))
        try:
            root.info = describe.describe_root(root, module, args, kwargs, self.torch)
        except Exception as error:
            self.session.fault("root.describe", error)
        # A process that is killed for its memory in the first call tells nothing afterwards: say now what
        # is known, and again with the outputs when the call has ended.
        self.session.claim()
        self._emit(root)
        # What knobs make of a model must be of use outside of the script's inference mode, too.
        with self.torch.inference_mode(False):
            self._tell(self.on_found, "root.found", root, args, kwargs)

    def _new_other(self, module):
        """Tells of a module that is no root, not of those below it; whether its calls then have a layer."""
        known = self._others.get(id(module))
        if (known is not None and known[0]() is module) or self.tracing():
            return False
        for inner in module.modules():
            self._others[id(inner)] = (weakref.ref(inner), None)
        with self.torch.inference_mode(False):
            self._tell(self.on_other, "root.other", module)
        return self._layer_of(module) is not None

    def _layer_of(self, module):
        known = self._others.get(id(module))
        return known[1] if known is not None and known[0]() is module else None

    def also(self, module, layer):
        """Calls of a module that is no root go through `layer(call, args, kwargs)`."""
        self._others[id(module)] = (weakref.ref(module), layer)
        self._wrap_class(type(module))

    def _emit(self, root):
        if root.info is not None and root.index < describe.ROOTS_TOLD:
            self.session.emit("root", **root.info)

    # Calling.

    def _wrap_class(self, cls):
        if cls in self._wrapped:
            return
        own = cls.__dict__.get("__call__")
        compiling = is_compiling(self.torch)
        depth = self._depth
        known = self._known

        def __call__(module, *args, **kwargs):
            # Looked up at each call: tracers replace Module.__call__ for a while.
            call = super(cls, module).__call__ if own is None else own.__get__(module, type(module))
            if compiling() or depth.value:
                return call(*args, **kwargs)
            found = known.get(id(module))
            if found is None or found[1]() is not module:
                if not self._is_root(module, args, kwargs):
                    layer = self._layer_of(module)
                    if layer is None:
                        return call(*args, **kwargs)
                    with self.hidden():
                        return layer(call, args, kwargs)
                self._register(module, args, kwargs)
                found = known[id(module)]
            elif self.passes_through(args, kwargs):
                return call(*args, **kwargs)
            return self._run(found[0], call, args, kwargs)

        self._wrapped[cls] = (own, __call__)
        cls.__call__ = __call__

    def _run(self, root, call, args, kwargs):
        training = self.at_work()
        module = root.module
        self._depth.value += 1
        hidden, watch = self._hide_detector(), None
        try:
            self._hooks("before", module, args, kwargs)
            watch = self._watch(root, args, kwargs) if training and not root.training_calls else None
            for layer in reversed(self.layers):
                call = _Bound(layer, root, call)
            output = call(*args, **kwargs)
            if watch is not None:
                root.batch_dim = watch.batch_dim()
        except BaseException as error:
            self._hooks("failed", module, error)
            raise
        finally:
            self._depth.value -= 1
            if watch is not None:
                watch.stop()
            if hidden and self.detecting:
                self.torch.nn.Module.__call__ = self._detector
        root.calls += 1
        if training:
            root.training_calls += 1
            if root.training_calls == 1:
                self._first_output(root, output)
        self._hooks("after", module, args, kwargs, output)
        return output

    def _watch(self, root, args, kwargs):
        if root.traced:
            return None
        try:
            given = describe.tensors_of((args, kwargs), self.torch)
            shape = next((tuple(t.shape) for _, t in given if t.dim() > 0), ())
            return sequence.Watch(root.module, shape, self.torch)
        except Exception as error:
            self.session.fault("root.watch", error)
            return None

    def _hide_detector(self):
        """Inside a root there is nothing to find, and what is compiled there must not depend on our function:
        it would be compiled again once that is gone."""
        module_class = self.torch.nn.Module
        if not self.detecting or module_class.__call__ is not self._detector:
            return False
        module_class.__call__ = self._plain_call
        return True

    def _first_output(self, root, output):
        try:
            if root.info is not None:
                root.info.update(describe.describe_output(output, self.torch), batch_dim=root.batch_dim)
        except Exception as error:
            self.session.fault("root.describe", error)
        self._emit(root)
        self._tell(self.on_first_output, "root.first_output", root)

    def _hooks(self, name, *values):
        hooks = self.session.root_calls
        if self._listed[0] is not hooks or self._listed[1] != len(hooks):
            self._listed = (hooks, len(hooks))
            for moment in self._moments:
                functions = [(hook, getattr(hook, moment, None)) for hook in hooks]
                self._moments[moment] = [pair for pair in functions if pair[1] is not None]
        for hook, function in self._moments[name]:
            if hook in self._broken:
                continue
            try:
                function(*values)
            except Exception as error:
                self._broken.append(hook)
                self.session.fault("root call %s of %s" % (name, type(hook).__name__), error)

    def _tell(self, hooks, name, *values):
        for hook in list(hooks):
            try:
                hook(*values)
            except Exception as error:
                hooks.remove(hook)
                self.session.fault(name, error)


class _Bound:
    """A layer with what comes below it."""

    __slots__ = ("call", "layer", "root")

    def __init__(self, layer, root, call):
        self.layer = layer
        self.root = root
        self.call = call

    def __call__(self, *args, **kwargs):
        return self.layer.around(self.root, self.call, args, kwargs)
