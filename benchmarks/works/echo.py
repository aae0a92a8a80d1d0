"""Echo, closed loop: each connection sends its next message when the answer has arrived."""

from benchmarks.peers import Peer
from benchmarks.works import RateWork
from hubbub.load import Target
from hubbub.load.echo import EchoLoad
from hubbub.load.load import Load


class Echo(RateWork):
    """So many connections, each with one message under way."""

    unit = "echoes/s"

    def __init__(self, connections: int) -> None:
        self.name = f"echo, {connections} connections"
        self._connections = connections

    def can(self, peer: Peer) -> bool:
        return peer.echo is not None

    def load(self, peer: Peer, target: Target) -> Load:
        assert peer.echo is not None
        return EchoLoad(target, peer.echo.line, peer.echo.request, peer.echo.answer, self._connections)
