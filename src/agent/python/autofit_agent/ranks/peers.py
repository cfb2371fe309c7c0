"""Each rank gives the others its parts of sharded tensors when they ask, without a collective.

In a script that distributes by itself the ranks do not all do the same: one of them saves, or evaluates,
while the others wait in a collective, are at their next step, or have ended.  So what is whole is not
gathered by all of them together.  The rank that needs it asks the others, and each answers from a thread.

Parts are of one version: the updates that a rank has made are counted, and a rank is answered with what there
was after as many updates as it has made itself.  A rank that is behind comes to it; one that is ahead cannot
give it any more: that is so where a script saves between the backward pass and the update.
What all ranks load they begin together, so that none has gone on while another still saves.

A rank that has come to its end stays for the others, unless one of them waits for it in a collective.
"""

import atexit
import contextlib
import ctypes
import os
import socket
import threading
import time
from multiprocessing.connection import Client, Listener

from .. import ending

_AGAIN = 0.2  # seconds between two looks at what the others still do
_BEHIND = 120.0  # seconds that a rank is given to come to the update that another one has made

# What a rank may answer instead of a part, and what that means.
AHEAD, BEHIND = "ahead", "behind"
WHY = {
    AHEAD: "a rank saves or evaluates by itself where the others go on to the next update",
    BEHIND: "a rank saves or evaluates by itself after the weights were changed in this rank alone",
}
_ENDED = "another rank has ended"


class Unanswered(Exception):
    """The parts cannot be put together; the text says why."""


class Peers:
    """See the head of this file; made by all ranks at once."""

    def __init__(self, end, torch):
        distributed = torch.distributed
        self.torch = torch
        self.rank, self.ranks = distributed.get_rank(), distributed.get_world_size()
        self._holders = None  # this one and those whose parts make a whole with its own, in order
        self._parts = None  # function(key): this rank's part
        self._told_to_end = end  # function(reason): ends this process
        self._version = 0
        self._changing = False  # an update is under way
        self._arrived = 0  # the latest version whose making all ranks begin together
        self._calls = 0  # calls that all ranks make together
        self._inside = False  # no update has followed the last of them
        self._forward = False  # no backward pass has begun since
        self._over = False  # this rank has come to its end
        self._here = threading.Condition()
        secrets = self._all([socket.gethostname(), os.urandom(32)])
        hosts, self._secret = {host for host, _ in secrets}, secrets[0][1]
        name = "127.0.0.1" if len(hosts) == 1 else socket.gethostname()
        self._listener = Listener((name, 0), backlog=self.ranks, authkey=self._secret)
        self._addresses = self._all((name, self._listener.address[1]))
        self._lines = {}  # rank -> the connection on which it is asked
        threading.Thread(target=self._listen, daemon=True, name="autofit ranks").start()
        atexit.register(self._leave, os.getpid())

    def _all(self, mine):
        found = [None] * self.ranks
        self.torch.distributed.all_gather_object(found, mine)
        return found

    @property
    def version(self):
        """The updates that this rank has made."""
        return self._version

    # What this rank does

    def begin(self, parts, holders):
        """This rank has its parts, and answers from now on: another one may have asked already."""
        with self._here:
            self._parts, self._holders = parts, holders
            self._here.notify_all()

    def changing(self):
        """An update begins: nobody is answered until it has ended."""
        with self._here:
            self._changing = True

    def changed(self):
        """Parameters or optimizer state are other ones from now on."""
        with self._here:
            self._version += 1
            self._changing = False
            self._here.notify_all()

    def meets(self):
        """All ranks are about to make the next version, as where they load one: waits for the others."""
        with self._here:
            self._arrived = self._version + 1
            self._here.notify_all()
        lines = self._others(range(self.ranks))
        try:
            for line in lines:
                line.send(("meet", self._arrived))
            come = [line.recv() for line in lines]
        except (EOFError, OSError) as error:
            raise Unanswered(_ENDED) from error
        if not all(come):
            raise Unanswered(WHY[BEHIND])

    def enters(self):
        """A call begins that all ranks make together."""
        self._calls += 1
        self._inside = self._forward = True

    def goes_back(self, _gradient=None):
        """The backward pass of that call begins."""
        self._forward = False

    def leaves(self):
        self._inside = False

    # Asking

    def whole(self, wanted):
        """The whole of each (key, this rank's part), split in dimension 0."""
        torch = self.torch
        keys, version = [key for key, _ in wanted], self._version
        lines = self._others(self._holders)
        try:
            for line in lines:
                line.send(("parts", version, keys))
            found = [self._receive(line, part) for line in lines for _, part in wanted]
        except (EOFError, OSError) as error:
            raise Unanswered(_ENDED) from error
        wholes = []
        for index, (_, part) in enumerate(wanted):
            pieces = [found[n * len(wanted) + index].to(part.device) for n in range(len(lines))]
            pieces.insert(self._holders.index(self.rank), part)
            wholes.append(torch.cat(pieces))
        return wholes

    def _receive(self, line, part):
        head = line.recv()
        if isinstance(head, str):
            raise Unanswered(WHY.get(head, head))
        made = self.torch.empty(head, dtype=part.dtype)
        if made.numel():
            line.recv_bytes_into(_bytes(made))
        return made

    def _others(self, ranks):
        return [self._line(rank) for rank in ranks if rank != self.rank]

    def _line(self, rank):
        if rank not in self._lines:
            self._lines[rank] = _prompt(Client(tuple(self._addresses[rank]), authkey=self._secret))
        return self._lines[rank]

    def end(self, reason):
        """The others end too: they would wait for this rank."""
        for rank in range(self.ranks):
            if rank != self.rank:
                with contextlib.suppress(OSError, EOFError):
                    self._line(rank).send(("end", reason))

    # Answering

    def _listen(self):
        while True:
            try:
                line = _prompt(self._listener.accept())
            except Exception:
                # Somebody else's connection, which does not know the secret, or the end of the process.
                time.sleep(_AGAIN)
                continue
            threading.Thread(target=self._answer, args=(line,), daemon=True, name="autofit ranks").start()

    def _answer(self, line):
        try:
            while True:
                kind, *asked = line.recv()
                if kind == "end":
                    self._told_to_end(*asked)
                if kind == "stay":
                    line.send(not self._over and not (self._inside and self._calls > asked[0]))
                    continue
                if kind == "meet":
                    line.send(self._comes(*asked))
                    continue
                for part in self._copies(*asked):
                    line.send(part if isinstance(part, str) else tuple(part.shape))
                    if not isinstance(part, str) and part.numel():
                        line.send_bytes(_bytes(part))
        except (EOFError, OSError):
            return  # the other rank has ended

    def _comes(self, version):
        """Whether this rank comes to making this version; one that has ended stands in nobody's way."""
        with self._here:
            return self._here.wait_for(lambda: self._over or self._arrived >= version, _BEHIND)

    def _copies(self, version, keys):
        """Copies of the parts, or the word for why not."""

        def is_there():
            made = self._parts is not None and self._version >= version and not self._changing
            return self._over or made

        with self._here:
            self._here.wait_for(is_there, _BEHIND)
            if self._parts is None or self._version != version or self._changing:
                return [AHEAD if self._version >= version else BEHIND]
            try:
                return [self._parts(key).detach().to("cpu", copy=True).contiguous() for key in keys]
            except Exception as error:
                return ["a rank has no part: %s: %s" % (type(error).__name__, error)]

    # The end

    def _leave(self, pid):
        """Waits for the others' ends, which may still ask for this rank's parts."""
        if os.getpid() != pid or ending.last_error() is not None:
            return
        with self._here:
            self._over = True
            self._here.notify_all()
        for rank in range(self.ranks):
            try:
                while rank != self.rank and self._asks_to_stay(rank):
                    time.sleep(_AGAIN)
            except (EOFError, OSError):
                continue  # it has ended

    def _asks_to_stay(self, rank):
        """Whether a rank is at work that is its own, and may still ask."""
        line = self._line(rank)
        # Batches behind the last update may be left over: with them all is done that is done together.
        line.send(("stay", self._calls - self._forward))
        return line.recv()


def _prompt(line):
    """What is sent on it leaves at once: else each small part would wait 40 ms for the last one's receipt."""
    with socket.socket(fileno=os.dup(line.fileno())) as own:
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return line


def _bytes(tensor):
    """The memory of a tensor on the host."""
    size = tensor.numel() * tensor.element_size()
    return memoryview((ctypes.c_char * size).from_address(tensor.data_ptr())).cast("B")
