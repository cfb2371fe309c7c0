"""`empty_cache`: cached GPU memory is given back where training, evaluation and saving follow each other."""

from .. import phases
from .base import Knob


class EmptyCache(Knob):
    name = "empty_cache"

    def __init__(self, session, wanted, way):
        super().__init__(session, wanted, way)
        self.listening = False

    def start(self):
        if not self.acts or not self.wanted:
            return
        if not self.torch.cuda.is_available():
            self.refuse("there is no GPU in this process")
            return
        if getattr(self.session, "phases", None) is None:
            phases.install(self.session)  # in production nothing else asks for it
        self.session.phases.listeners.append(self.session.guard("knob.empty_cache")(self._empty))
        self.listening = True

    def _empty(self, _phase):
        cuda = self.torch.cuda
        if cuda.is_initialized():
            cuda.synchronize()
            cuda.empty_cache()
            self.objects += 1

    def verify(self):
        self.how = "torch.cuda.empty_cache() between training, evaluation and saving"
        return self.listening

    def undo(self):
        self.listening = False
