"""What a soak's client notes of what it publishes."""

import pytest

from hubbub import Connection, Denied, Hubbub, Position, Room, Unavailable
from hubbub.soak.ledger import Fate, Ledger
from hubbub.soak.note import Note
from hubbub.soak.participant import Participant, connected, past_of
from hubbub.soak.recovery import Recoveries
from hubbub.testing.serving import serving

pytestmark = pytest.mark.anyio


def troubled(attempts: int) -> Hubbub:
    """A hub whose broker is away for the first attempts, as far as its handler knows."""
    hub = Hubbub()

    @hub.room("soak/{name}", history=100).on_message
    async def note(connection: Connection, room: Room, message: Note) -> Position:
        nonlocal attempts
        if message.exclude:
            raise Denied("Nobody is excluded here.")
        position = await room.send(message)
        attempts -= 1
        if attempts >= 0:
            raise Unavailable("The broker went before it could say so.")
        return position

    return hub


@pytest.mark.parametrize("attempts", [0, 2])
async def test_what_is_put_off_is_noted_and_there_once(attempts):
    ledger = Ledger()
    async with serving(troubled(attempts)) as served, connected(served.url) as client:
        participant = Participant(0, client, ledger, Recoveries(lambda: 0.0))
        await participant.join(["soak/r"])
        number, published = participant.begin(0)
        assert await published
        assert ledger.put_off == ({number} if attempts else set())
        assert ledger.fates[number] == Fate.ACKNOWLEDGED
        past = await past_of(client, "soak/r")
        assert past.messages == [(1, number)]


async def test_what_is_refused_for_good_is_not_put_off():
    ledger = Ledger(excluding=True)
    async with serving(troubled(0)) as served, connected(served.url) as client:
        participant = Participant(0, client, ledger, Recoveries(lambda: 0.0))
        await participant.join(["soak/r"])
        number, published = participant.begin(0)
        assert await published
        assert (ledger.fates[number], ledger.put_off) == (Fate.REFUSED, set())
