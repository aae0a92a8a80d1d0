"""New connections: so many are being opened at any time, and each is closed when it is open."""

from benchmarks.peers import Peer
from benchmarks.works import RateWork
from hubbub.load import Target
from hubbub.load.accepts import AcceptsLoad
from hubbub.load.load import Load


class Accepts(RateWork):
    """Connections that are accepted, upgraded and, by a peer that has one, sent their welcome."""

    unit = "connections/s"

    def __init__(self, at_once: int) -> None:
        self.name = f"new connections, {at_once} at once"
        self._at_once = at_once

    def can(self, peer: Peer) -> bool:
        return peer.echo is not None or peer.fanout is not None

    def load(self, peer: Peer, target: Target) -> Load:
        line = peer.echo.line if peer.echo else peer.fanout.publisher if peer.fanout else None
        assert line is not None
        return AcceptsLoad(target, line, self._at_once)
