"""Many rooms of few members each, with broadcasts under way in some of them at any time."""

from benchmarks.peers import Peer, text
from benchmarks.works import RateWork
from hubbub.load import Target
from hubbub.load.load import Load
from hubbub.load.rooms import RoomsLoad

TEXT = text(64)


class Rooms(RateWork):
    """Deliveries in all rooms together."""

    unit = "deliveries/s"

    def __init__(self, rooms: int, members: int, in_flight: int) -> None:
        self.name = f"{rooms} rooms of {members}, {in_flight} at once"
        self._rooms = rooms
        self._members = members
        self._in_flight = in_flight

    def can(self, peer: Peer) -> bool:
        return peer.rooms is not None

    def load(self, peer: Peer, target: Target) -> Load:
        rooms = peer.rooms
        assert rooms is not None
        return RoomsLoad(
            target,
            rooms.member,
            rooms.publisher,
            lambda number: rooms.publish(number, TEXT),
            rooms.delivery(TEXT),
            rooms=self._rooms,
            members=self._members,
            in_flight=self._in_flight,
        )
