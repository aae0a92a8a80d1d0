"""A user's connections on all instances: asked for, and closed."""

import asyncio
import time

import msgspec
import pytest

from chat_room import LOBBY, nothing_more
from fake_transport import fake_connection
from hubbub import Connection, Hubbub, Unavailable
from hubbub.brokers.memory import MemoryBroker, MemoryStore
from hubbub.engine.control import Answer, Ask, Disconnect
from hubbub.engine.questions import Questions
from hubbub.engine.users import MAX_TASKS, MAX_TOLD, Users
from hubbub.protocol.codecs import pack
from instances import side_by_side
from moderated_chat import moderated_chat
from wire import talk

pytestmark = pytest.mark.anyio


def two() -> tuple[Hubbub, Hubbub]:
    store = MemoryStore()
    return moderated_chat(MemoryBroker(store, instance="one")), moderated_chat(
        MemoryBroker(store, instance="other")
    )


async def test_a_users_connections_on_all_instances_are_found(start):
    one, other = two()
    url = start(side_by_side(one=one, other=other)).url
    began = time.time() - 1
    async with (
        talk(f"{url}/one/?token=ada") as phone,
        talk(f"{url}/other/?token=ada", subprotocols=["hubbub.v1.msgpack"]) as laptop,
        talk(f"{url}/other/?token=bob") as bob,
    ):
        await laptop.join(LOBBY)
        for _ in range(2):
            answer = await bob.ask(type="connections", data={"user": "ada"})
            found = answer["data"]["connections"]
            assert [(each["id"], each["instance"], each["rooms"]) for each in found] == [
                (phone.welcome["connection"], "one", []),
                (laptop.welcome["connection"], "other", [LOBBY]),
            ]
        for each in found:
            assert each["user"] == "ada"
            assert each["session"] == each["id"][:8]
            assert each["remote_address"][0] == "127.0.0.1"
            assert began < each["connected_at"] < time.time() + 1
        assert (await bob.ask(type="connections", data={"user": "cleo"}))["data"]["connections"] == []


async def test_a_guest_is_found_by_its_name(start):
    async with talk(start(moderated_chat()).url) as guest:
        name = f"guest:{guest.welcome['connection'][:8]}"
        [found] = (await guest.ask(type="connections", data={"user": name}))["data"]["connections"]
        assert (found["id"], found["user"]) == (guest.welcome["connection"], name)


async def test_a_users_connections_are_closed_on_all_instances_and_their_sessions_are_over(start):
    one, other = two()
    url = start(side_by_side(one=one, other=other)).url
    async with talk(f"{url}/one/?token=bob") as bob:
        async with talk(f"{url}/one/?token=ada") as phone, talk(f"{url}/other/?token=ada") as laptop:
            answer = await bob.ask(type="disconnect", data={"user": "ada", "reason": "Goodbye."})
            assert answer["data"] == {"of": 2}
            assert await phone.closed() == await laptop.closed() == (4401, "Goodbye.")
            for was in (phone, laptop):
                async with talk(f"{url}/one/?token=ada") as again:
                    token = was.welcome["session"]
                    answer = await again.ask(type="$resume", data={"session": token, "rooms": {}})
                    assert answer["data"]["code"] == "session_refused"
        await nothing_more(bob)


async def test_the_connections_of_one_login_are_closed_on_all_instances(start):
    one, other = two()
    for hub in (one, other):

        @hub.on_connect
        async def remember(connection: Connection) -> None:
            connection.state["login"] = connection.request.query_params["login"]

    url = start(side_by_side(one=one, other=other)).url
    async with (
        talk(f"{url}/one/?token=ada&login=home") as first,
        talk(f"{url}/other/?token=ada&login=home") as second,
        talk(f"{url}/one/?token=ada&login=way") as stays,
        talk(f"{url}/other/?token=ada&login=way") as stays_too,
        talk(f"{url}/other/?token=bob&login=home") as bob,
    ):
        answer = await bob.ask(type="disconnect", data={"user": "ada", "login": "home"})
        assert answer["data"] == {"of": 2}
        assert (await first.closed())[0] == (await second.closed())[0] == 4401
        for client in (stays, stays_too, bob):
            assert (await client.ask(type="$ping"))["type"] == "$pong"


async def test_a_user_can_disconnect_themselves(start):
    async with talk(f"{start(moderated_chat()).url}/?token=ada") as ada:
        await ada.send(type="disconnect", id=1, data={"user": "ada"})
        assert await ada.closed() == (4401, "Log in again.")


async def test_a_reason_that_fits_no_close_frame_is_refused():
    hub = moderated_chat()
    async with hub.lifespan():
        with pytest.raises(ValueError, match="124 bytes"):
            await hub.disconnect(user="ada", reason="x" * 124)


async def test_an_instance_that_does_not_answer_is_logged_and_what_is_known_returned(logs, monkeypatch):
    monkeypatch.setattr("hubbub.engine.users.WAIT", 0.05)
    store = MemoryStore()
    hub, deaf = moderated_chat(MemoryBroker(store)), MemoryBroker(store, instance="deaf")

    class Nobody:
        def control(self, payload: bytes) -> None: ...

    await deaf.start(Nobody())
    async with hub.lifespan():
        assert await hub.connections(user="ada") == []
        assert await hub.disconnect(user="ada") is None
    assert logs.of("control", asked="ask", unanswered="deaf")
    assert logs.of("control", asked="disconnect", unanswered="deaf")


async def test_alone_nobody_is_asked():
    class Mute(MemoryBroker):
        async def send_control(self, instance: str | None, payload: bytes) -> None:
            raise AssertionError

    hub = moderated_chat(Mute())
    async with hub.lifespan():
        assert await hub.connections(user="ada") == []
        assert await hub.disconnect(user="ada") == 0


async def test_connections_here_are_closed_though_the_broker_is_away(start):
    class Away(MemoryBroker):
        async def instances(self) -> list[str]:
            raise Unavailable("The broker is away.")

    url = start(moderated_chat(Away())).url
    async with talk(f"{url}/?token=ada") as ada, talk(f"{url}/?token=bob") as bob:
        answer = await bob.ask(type="disconnect", data={"user": "ada"})
        assert answer["data"]["code"] == "unavailable"
        assert (await ada.closed())[0] == 4401


class Noted(MemoryBroker):
    """Keeps what is sent to other instances."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[str | None, object]] = []

    async def send_control(self, instance: str | None, payload: bytes) -> None:
        self.sent.append((instance, msgspec.msgpack.decode(payload)))


def users(broker: MemoryBroker, count: int, rooms: int = 0) -> Users:
    connections = {}
    for _ in range(count):
        connection, _ = fake_connection()
        connection.user = "ada"
        connections[connection.id] = connection
        if rooms:
            names = [f"{number}/" + "x" * 200 for number in range(rooms)]
            connection.memberships = type("Memberships", (), {"names": names})()

    async def revoke(connection: Connection) -> None: ...

    return Users(Questions(broker), connections, revoke)


@pytest.mark.parametrize(("count", "rooms"), [(MAX_TOLD + 5, 0), (200, 150)])
async def test_an_answer_is_bounded_and_says_how_many_there_are(count, rooms):
    broker = Noted()
    some = users(broker, count, rooms)
    some.asked(Ask("question", "other", "ada"))
    await some._questions.stop(5)
    [(instance, answer)] = broker.sent
    kind, question, sender, total, told = answer
    assert (instance, kind, question, sender, total) == (
        "other",
        "answer",
        "question",
        broker.instance,
        count,
    )
    assert len(told) <= MAX_TOLD
    assert len(pack(answer)) < 512 * 1024
    assert all(len(each["rooms"]) <= 100 for each in told)
    assert len(told) < count


async def test_who_is_told_less_than_there_are_logs_it(logs):
    class Answering(Noted):
        async def instances(self) -> list[str]:
            return [self.instance, "other"]

        async def send_control(self, instance: str | None, payload: bytes) -> None:
            question = msgspec.msgpack.decode(payload)[1]
            some._questions.answered(Answer(question, "other", 7, []))

    some = users(Answering(), 1)
    assert len(await some.connections("ada")) == 1
    assert logs.of("control", user="ada", instance="other", untold=7)


async def test_revocations_that_are_too_many_are_left_out(logs):
    some, revoked, gate = users(Noted(), MAX_TASKS + 10), [], asyncio.Event()

    async def revoke(connection: Connection) -> None:
        await gate.wait()
        revoked.append(connection)

    some._revoke = revoke
    some.disconnected(Disconnect("question", "other", "ada", "Goodbye."))
    gate.set()
    await some.stop(5)
    assert len(revoked) == MAX_TASKS
    assert len(logs.of("control", more="are left out")) == 1


async def test_what_hangs_when_it_stops_is_cancelled():
    some = users(Noted(), 1)

    async def revoke(connection: Connection) -> None:
        await asyncio.Event().wait()

    some._revoke = revoke
    some.disconnected(Disconnect("question", "other", "ada", "Goodbye."))
    await some.stop(0.01)
    assert not some._tasks


async def test_sessions_that_could_not_be_revoked_are_logged_and_their_connections_closed(logs):
    broker = Noted()
    some = users(broker, 1)
    [connection] = some._connections.values()

    async def away(connection: Connection) -> None:
        raise Unavailable("The broker is away.")

    some._revoke = away
    some.disconnected(Disconnect("question", "other", "ada", "Goodbye."))
    await some.stop(5)
    await some._questions.stop(5)
    assert connection.closing
    assert logs.of("control", unrevoked=connection.session[:8])
    assert broker.sent == [("other", ["answer", "question", broker.instance, 1, []])]


async def test_a_task_that_fails_is_logged(logs):
    broker = Noted()
    some = users(broker, 1)

    async def broken(connection: Connection) -> None:
        raise ZeroDivisionError

    some._revoke = broken
    some.disconnected(Disconnect("question", "other", "ada", "Goodbye."))
    await some.stop(5)
    assert logs.of("error", during="control message")


async def test_sessions_are_revoked_here_though_the_others_can_not_be_asked():
    class Away(MemoryBroker):
        async def instances(self) -> list[str]:
            raise Unavailable("The broker is away.")

    some, revoked = users(Away(), 2), []

    async def revoke(connection: Connection) -> None:
        revoked.append(connection)

    some._revoke = revoke
    with pytest.raises(Unavailable):
        await some.disconnect("ada", "Goodbye.")
    assert revoked == list(some._connections.values())
    assert all(connection.closing for connection in revoked)
