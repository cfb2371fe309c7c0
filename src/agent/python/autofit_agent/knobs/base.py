"""What every knob has in common."""


class Knob:
    """One setting: whether it can be applied, applying it, reading it back and taking it away.

    A knob acts where the plan's way for it is `agent`; with every other way (the script's option, a
    framework's switch, the environment) somebody else has turned it, and the knob only reads back what is
    in force.
    """

    name = ""
    layer = None  # place among the layers around a root's call: lower is further out
    serves = False  # also where nothing is trained
    per_root = False  # reported as soon as the first training call of a root has ended
    learns = False  # what it has found out is worth keeping while it is not in force (windows/turning.py)
    told = True  # its reports are the launch's; those of a window's knobs stand in the window's record

    def __init__(self, session, wanted, way):
        self.session = session
        self.wanted = wanted
        self.acts = way == "agent"
        self.way = way
        self.reason = None  # why it is not in force
        self.how = ""
        self.objects = 0
        self.applied = False
        self._met = {}  # index of a root -> its training calls before the knob met it

    @property
    def torch(self):
        return self.session.torch

    @classmethod
    def turns_between_steps(cls, _value):
        """Whether this value can be applied to roots that are known already, and taken away without a trace.

        `Knob::turns_between_steps` of the launcher says the same.
        """
        return False

    def start(self):
        """Called once torch is there, before the script builds anything; a window's knob, between steps."""

    def requires(self, root, args, kwargs):
        """None, or why it cannot be applied to this root."""

    def apply(self, root, args, kwargs):
        """Applies it to a root, before its first call."""

    def meet(self, root, args, kwargs):
        """Before the first call of a root that the knob sees."""
        self._met.setdefault(root.index, root.training_calls)
        self.on_root(root, args, kwargs)

    def has_met(self, root):
        return root.index in self._met

    def first(self, root):
        """Whether no training call of this root has ended since the knob met it."""
        return root.training_calls == self._met.get(root.index, 0)

    def on_root(self, root, args, kwargs):
        """A root was found: the knob is applied to it unless something stands against it."""
        if not self.acts or not self.per_root or self.reason is not None:
            return
        reason = self._without_training(root) or self.requires(root, args, kwargs)
        if reason is None:
            self.apply(root, args, kwargs)
            self.applied = True
        else:
            self.refuse(reason)

    def _without_training(self, root):
        if root.serves and not self.serves:
            return "%s is only called without gradients: nothing is trained" % root.name
        return None

    def refuse(self, reason):
        """Not in force, now and for the rest of this process."""
        if self.reason is None:
            self.reason = reason
            self.session.knob_changed(self)

    def verify(self):
        """The value in force, read from what it acts on; None where it is not in force."""

    def verify_switch(self):
        """Turned through a framework's switch: its object must say so, and the process must show it."""
        said, how, why_not = self.session.frameworks.read(self.name)
        if said is None:
            self.how, self.reason = how, why_not
            return None
        seen = self.verify()
        self.how = how if seen == said or not self.how else "%s; %s" % (how, self.how)
        if seen != said:
            self.reason = self.reason or "%s is %s, but %s is in force" % (how, said, seen)
            return None
        return said

    def not_twice(self):
        """Why it cannot stay in force where the script differentiates through gradients; None if it can."""
        return

    def undo(self):
        """Leaves the process as if the knob had not been turned."""

    def pause(self):
        """The same for a while, of a knob that `learns`."""

    def resume(self):
        """In force again."""

    def report(self):
        """`KnobReport` of the contract, without what was requested."""
        effective, reason = None, self.reason
        if reason is None:
            effective = self.verify_switch() if self.way == "framework" else self.verify()
            # What is not in force yet may be later: only a refusal is for good.
            reason, self.reason = self.reason, None
        return {
            "knob": self.name,
            "effective": effective,
            "how": self.how,
            "objects": self.objects,
            "reason": None if effective is not None else reason or "applied to 0 objects",
        }
