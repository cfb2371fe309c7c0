"""Puts another configuration in force between two steps, and the launch's own again.

Each knob that differs is an object of its own: `start` between the steps, `meet` with the arguments of the
next call of each root, `verify` once steps have run with it, `undo` at the end.  What a knob that `learns`
has found out is kept for the next time.
"""

from .. import knobs as kinds

OTHERS = ("batch_size",)  # turned otherwise (cutting.py)
BESIDE_COMPILED = ("optimizer", "set_to_none")  # what compiled code of a model knows nothing of


class Turner:
    """See the head of this file."""

    def __init__(self, session):
        self.session = session
        self.own = dict(session.plan.settings)
        self.now = dict(self.own)
        self.turned = {}  # name -> knob in force in a window only
        self._kept = {}  # (name, value) -> knob that learns, while it is not in force
        self._back = []  # knobs of the launch that were put in force again
        self._began = False

    # What can be turned.

    def why_not(self, target):
        """None, or why this configuration cannot be put in force between two steps."""
        differ = [name for name in kinds.KINDS if self.own.get(name) != target.get(name)]
        if any(root.traced for root in self.session.roots.roots) and not set(differ) <= set(BESIDE_COMPILED):
            return "the model is compiled, and compiled code is what it was when it was made"
        for name in differ:
            if name in OTHERS:
                continue
            reason = self._stands_against(name, target)
            if reason is not None:
                return reason
        return None

    def _stands_against(self, name, target):
        kind, way = kinds.KINDS.get(name), self.session.plan.ways.get(name, "agent")
        values = [settings[name] for settings in (self.own, target) if name in settings]
        if kind is None or not all(kind.turns_between_steps(value) for value in values):
            return "%s cannot be turned between two steps" % name
        if name == "omp_threads":
            return None if name in target else "what %s is without its setting is not known here" % name
        if way != "agent":
            turned = {"option": "the script's own option", "framework": "a switch of its framework"}
            return "%s is turned by %s, which is read once" % (name, turned.get(way, "the environment"))
        return None

    # Turning.

    def turn(self, target):
        """Puts `target` in force; the knobs that differ meet the roots at their next calls."""
        differ = _differences(self.now, target)
        changes = [name for name in kinds.KINDS if name in differ]
        self.session.settings = target
        for name in reversed(changes):
            self._take_away(name)
        for name in changes:
            if name in target:
                self._put(name, target[name], is_own=target[name] == self.own.get(name))
        self.now = dict(target)
        in_force = self.session.knobs.all
        self.session.roots.layers[:] = kinds.layers(in_force)
        if not self._began:
            self._began = True
            # Another list, not a longer one: somebody may be going through it.
            self.session.root_calls = [*self.session.root_calls, self]

    def _take_away(self, name):
        knobs = self.session.knobs
        knob = self.turned.pop(name, None) or next((k for k in knobs.all if k.name == name), None)
        if knob is None or (name == "omp_threads" and knob.told):
            return
        knobs.all = [k for k in knobs.all if k is not knob]
        if knob.learns and knob.reason is None:
            self._kept[(name, knob.wanted)] = knob
            _try(knob, knob.pause)
        else:
            _try(knob, knob.undo)

    def _put(self, name, value, is_own):
        knobs = self.session.knobs
        if name == "omp_threads" and is_own:
            return  # the environment's: it is in force again
        knob = self._kept.pop((name, value), None)
        if knob is not None:
            _try(knob, knob.resume)
        else:
            knob = kinds.KINDS[name](self.session, value, "agent")
            knob.name = name
            knob.told = is_own
            _try(knob, knob.start)
        knobs.all = [*knobs.all, knob]
        if is_own:
            self._back.append(knob)
        else:
            self.turned[name] = knob

    def before(self, module, args, kwargs):
        """Called by root.py before each call of a root: knobs meet it."""
        roots = self.session.roots
        root = roots.of(module)
        if root is None or not roots.at_work():
            return
        for knob in self.session.knobs.all:
            if not knob.has_met(root):
                # As in root.py: of use outside of the script's inference mode, too.
                with self.session.torch.inference_mode(False):
                    _try(knob, knob.meet, root, args, kwargs)

    # Reading back.

    def reports(self):
        """`KnobReport`s of the knobs that differ."""
        return [_report(knob) for knob in self.turned.values()]

    def refused(self):
        """Why a knob that differs is out of force, known without reading back; else None."""
        for knob in self.turned.values():
            if knob.reason is not None:
                return _sentence(knob.name, knob.wanted, knob.reason)
        return None

    def tell_own(self):
        """Knobs of the launch that are in force again are read back again."""
        back, self._back = self._back, []
        for knob in back:
            self.session.knobs.tell(knob)


def not_in_force(reports):
    """A sentence on the first knob that was not read back as asked; None where all were."""
    for report in reports:
        if report["effective"] != report["requested"]:
            reason = report["reason"] or "%s is in force" % (report["effective"],)
            return _sentence(report["knob"], report["requested"], reason)
    return None


def _sentence(name, value, reason):
    value = str(value).lower() if isinstance(value, bool) else value
    return "%s=%s was not applied: %s" % (name, value, reason)


def _differences(one, other):
    names = [name for name in (*one, *other) if name not in OTHERS]
    return {name for name in names if one.get(name) != other.get(name)}


def _report(knob):
    try:
        report = knob.report()
    except Exception as error:
        report = {"knob": knob.name, "effective": None, "how": knob.how, "objects": 0}
        report["reason"] = _failed(error)
    report["requested"] = knob.wanted
    return report


def _try(knob, function, *values):
    try:
        function(*values)
    except Exception as error:
        knob.refuse(_failed(error))


def _failed(error):
    return "the agent failed: %s: %s" % (type(error).__name__, error)
