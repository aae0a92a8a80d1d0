"""How a client talks to a server whose library has no protocol of its own: the path says what it is for."""

from benchmarks.peers import ECHO as TEXT
from benchmarks.peers import Echo, FanOut, Line, Rooms, Step

JOINED = b"joined"
"""What a server tells a subscriber once it will be given what is published."""


def subscriber(room: int) -> Line:
    return Line(f"/subscribe/{room}", (Step(None, JOINED),))


def publisher(room: int) -> Line:
    return Line(f"/publish/{room}")


ECHO = Echo(Line("/echo"), request=TEXT, answer=TEXT)
FANOUT = FanOut(subscriber(0), publisher(0))
ROOMS = Rooms(subscriber, publisher, publish=lambda _, text: text)
