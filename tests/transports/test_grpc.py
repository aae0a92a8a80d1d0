"""A line over gRPC, by stubs that protoc has generated, against a real server."""

import asyncio
import json
from collections.abc import AsyncIterator

import grpc
import pytest

from chat_room import LOBBY, Say, chat_hub
from hubbub import Connection, Denied, Hubbub, Message, Room, Settings
from hubbub.testing.serving import serving
from transports.grpc_calls import (
    channel_to,
    connected,
    ended,
    eventually,
    message,
    pb,
    services,
    settled,
    subscribed,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
async def grpc_is_left() -> AsyncIterator[None]:
    yield
    await settled()


USERS = {"token-of-ada": "ada", "token-of-bob": "bob"}


def make_hub(**settings: object) -> Hubbub:
    hub = Hubbub(Settings(**{"grpc_port": 0, "drain": 1.0, **settings}))  # type: ignore[arg-type]
    chat = chat_hub(hub, presence=True)

    @chat.on_message
    async def say(connection: Connection, room: Room, message: Say) -> int:
        await room.send(message, exclude=connection)
        return len(message.text)

    @hub.authenticate
    async def who(connection: Connection) -> str | None:
        if connection.token is not None and connection.token not in USERS:
            raise Denied("This token is not valid.")
        return USERS.get(connection.token or "")

    return hub


async def post(hub: Hubbub, *texts: str) -> None:
    for text in texts:
        await hub.rooms[0](name="lobby").send(Say(text=text))


class TestConnect:
    async def test_a_session_is_as_over_a_websocket(self):
        async with (
            serving(make_hub()) as served,
            connected(served.grpc, token="token-of-ada") as ada,
            connected(served.grpc, token="token-of-bob") as bob,
        ):
            assert ada.welcome["user"] == "ada"
            await ada.join(LOBBY)
            await bob.join(LOBBY)
            assert await ada.receive() == {"type": "$joined", "room": LOBBY, "data": [{"user": "bob"}]}
            answer = await bob.ask(type="say", id=7, room=LOBBY, data={"text": "hé"})
            assert answer == {"type": "$ack", "id": 7, "room": LOBBY, "data": 2}
            assert await ada.receive() == {
                "type": "say", "room": LOBBY, "offset": 1, "from": "bob", "data": {"text": "hé"},
            }  # fmt: skip

    async def test_the_token_is_metadata(self):
        async with (
            serving(make_hub()) as served,
            connected(served.grpc, token="made-up", welcome=False) as caller,
        ):
            answer = await caller.receive()
            assert (answer["type"], answer["data"]["code"]) == ("$error", "denied")
            status, details, told = await caller.ended()
        assert (status, details) == (grpc.StatusCode.UNAUTHENTICATED, "This token is not valid.")
        assert told == {"hubbub-close-code": "4401", "hubbub-close-reason": "This token is not valid."}

    async def test_ids_are_numbers_or_texts(self):
        async with serving(make_hub()) as served, connected(served.grpc) as caller:
            for identity in (0, 2**62, -1, "a", ""):
                assert await caller.ask(type="$ping", id=identity) == {"type": "$pong", "id": identity}

    async def test_data_that_is_no_json_is_an_error_and_the_line_goes_on(self):
        async with serving(make_hub()) as served, connected(served.grpc) as caller:
            for data in (b"{", b'1, "type": "$ping"', b'{"a":1} {}', b"nan", b'{"type":"$ping"}}'):
                await caller.call.write(pb.Message(type="say", data=data))
                answer = await caller.receive()
                assert (answer["type"], answer["data"]["code"]) == ("$error", "invalid"), data
            assert await caller.ask(type="$ping", id=1) == {"type": "$pong", "id": 1}

    async def test_other_text_than_utf_8_ends_the_line(self):
        async with serving(make_hub()) as served:
            for data in (b'"\xff"', b"\xff"):
                async with connected(served.grpc) as caller:
                    await caller.call.write(pb.Message(type="say", data=data))
                    status, _, told = await caller.ended()
                    assert (status, told["hubbub-close-code"]) == (grpc.StatusCode.INVALID_ARGUMENT, "1007")

    async def test_bytes_that_are_no_message_end_the_line(self):
        async with serving(make_hub()) as served, channel_to(served.grpc) as channel:
            call = channel.stream_stream("/hubbub.v1.Hubbub/Connect")()
            await call.write(b"\x0f\xff\xff")
            status, _, told = await ended(call)
            assert (status, told["hubbub-close-code"]) == (grpc.StatusCode.INVALID_ARGUMENT, "1007")

    async def test_who_sends_no_more_is_still_answered(self):
        async with serving(make_hub()) as served, channel_to(served.grpc) as channel:
            requests = [
                message(type="$join", id=1, room=LOBBY),
                *(message(type="say", id=number, room=LOBBY, data={"text": "x"}) for number in range(2, 50)),
            ]
            call = services.HubbubStub(channel).Connect(iter(requests))
            answered = [one.number async for batch in call for one in batch.messages if one.type == "$ack"]
            assert answered == list(range(1, 50))
            assert await call.code() is grpc.StatusCode.OK
            assert ("hubbub-close-code", "1000") in tuple(await call.trailing_metadata())

    async def test_what_is_ready_at_the_same_moment_is_one_message_of_grpc_s(self):
        hub = make_hub()
        async with serving(hub) as served, connected(served.grpc) as caller:
            await caller.join(LOBBY)
            first = await hub.rooms[0](name="lobby").send(Say(text="0"))
            await asyncio.gather(*(hub.rooms[0](name="lobby").send(Say(text=str(n))) for n in range(1, 100)))
            reads, offsets = 0, []
            while len(offsets) < 100:
                batch = await caller.call.read()
                reads += 1
                offsets += [one.offset for one in batch.messages]
            assert offsets == list(range(first.offset, first.offset + 100))
            assert reads < 50


class TestSubscribe:
    async def test_it_joins_rooms_and_is_sent_what_is_said_there(self):
        hub = make_hub()
        async with serving(hub) as served:
            await post(hub, "before")
            async with subscribed(served.grpc, LOBBY, "nowhere") as listener:
                joined, refused = await listener.receive(), await listener.receive()
                assert (joined["type"], joined["id"], joined["room"]) == ("$ack", 1, LOBBY)
                assert (refused["id"], refused["data"]["code"]) == (2, "unknown_room")
                await post(hub, "hi")
                said = await listener.receive()
                assert (said["offset"], said["data"]) == (2, {"text": "hi"})

    async def test_from_a_position_on(self):
        hub = make_hub()
        async with serving(hub) as served:
            await post(hub, "1", "2")
            async with subscribed(served.grpc, LOBBY) as listener:
                position = (await listener.receive())["data"]
            await post(hub, "3", "4")
            async with subscribed(served.grpc, (LOBBY, position)) as listener:
                await listener.receive()
                assert [(await listener.receive())["data"]["text"] for _ in range(2)] == ["3", "4"]

    async def test_a_session_is_taken_up(self):
        hub = make_hub()
        async with serving(hub) as served:
            async with subscribed(served.grpc, LOBBY) as listener:
                position = (await listener.receive())["data"]
                session = listener.welcome["session"]
            await post(hub, "missed")
            async with subscribed(served.grpc, (LOBBY, position), session=session, attempt=1) as listener:
                welcome = await listener.receive()
                assert (welcome["type"], welcome["id"], welcome["data"]["resumed"]) == ("$welcome", 0, True)
                assert (await listener.receive())["data"] == {"text": "missed"}

    async def test_what_is_no_subscription_is_refused(self):
        async with serving(make_hub()) as served, channel_to(served.grpc) as channel:
            call = channel.unary_stream("/hubbub.v1.Hubbub/Subscribe")(b"\x0f\xff")
            assert (await ended(call))[0] is grpc.StatusCode.INVALID_ARGUMENT


class TestPublish:
    KEY = "0123456789abcdef"

    async def publish(self, served, key: str = KEY, **fields: object):
        async with channel_to(served.grpc) as channel:
            call = services.HubbubStub(channel).Publish(
                pb.Publication(**fields), metadata=(("authorization", f"Bearer {key}"),)
            )
            try:
                return await call
            except grpc.aio.AioRpcError as problem:
                failure = dict(problem.trailing_metadata()).get("hubbub-failure-bin")
                return problem.code(), None if failure is None else json.loads(failure)["code"]

    async def test_it_publishes_to_a_room(self):
        async with serving(make_hub(api_keys=self.KEY)) as served, connected(served.grpc) as caller:
            await caller.join(LOBBY)
            position = await self.publish(served, type="say", room=LOBBY, data=b'{"text":"hi"}')
            assert position.offset == 1
            assert await caller.receive() == {
                "type": "say",
                "room": LOBBY,
                "offset": 1,
                "data": {"text": "hi"},
            }

    async def test_again_with_the_same_key_it_is_published_once(self):
        async with serving(make_hub(api_keys=self.KEY)) as served:
            told = [
                await self.publish(served, type="say", room=LOBBY, data=b'{"text":"hi"}', idempotency_key="k")
                for _ in range(2)
            ]
            assert told[0] == told[1]

    async def test_what_can_t_be_published_is_told(self):
        async with serving(make_hub(api_keys=self.KEY)) as served:
            unauthenticated = await self.publish(served, key="another-key-0000", type="say", room=LOBBY)
            assert unauthenticated == (grpc.StatusCode.UNAUTHENTICATED, "unauthorized")
            nowhere = await self.publish(served, type="say", room="nowhere")
            assert nowhere == (grpc.StatusCode.NOT_FOUND, "unknown_room")
            for fields in (
                {"type": "$x"},
                {"type": "say", "data": b'{"text":1}'},
                {"type": "say", "data": b"{"},
            ):
                status, _ = await self.publish(served, room=LOBBY, **fields)
                assert status is grpc.StatusCode.INVALID_ARGUMENT

    async def test_without_api_keys_there_is_none(self):
        async with serving(make_hub()) as served:
            assert await self.publish(served, type="say", room=LOBBY) == (grpc.StatusCode.UNIMPLEMENTED, None)


class TestTheEndOfACall:
    async def test_a_cancelled_call_ends_the_line_at_once_even_while_a_handler_runs(self):
        hub = make_hub()
        began, finished, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()
        held: list[Connection] = []

        class Wait(Message):
            pass

        @hub.on_message
        async def wait(connection: Connection, message: Wait) -> None:
            held.append(connection)
            began.set()
            await go_on.wait()
            finished.set()

        async with serving(hub) as served, connected(served.grpc) as caller:
            await caller.send(type="wait")
            await asyncio.wait_for(began.wait(), 5)
            assert not held[0].lost
            caller.call.cancel()
            await eventually(lambda: held[0].lost)
            go_on.set()
            await asyncio.wait_for(finished.wait(), 5)  # a handler is not cut off in the middle

    async def test_a_deadline_ends_the_line(self):
        gone = asyncio.Event()
        hub = make_hub()

        @hub.on_disconnect
        async def disconnect() -> None:
            gone.set()

        async with serving(hub) as served, connected(served.grpc, timeout=0.5) as caller:
            status, _, told = await caller.ended()
            assert (status, told) == (grpc.StatusCode.DEADLINE_EXCEEDED, {})
            await asyncio.wait_for(gone.wait(), 5)

    async def test_a_drain_tells_when_to_come_back(self):
        async with serving(make_hub()) as served:
            leaving = connected(served.grpc)
            caller = await leaving.__aenter__()
            listening = subscribed(served.grpc, LOBBY)
            listener = await listening.__aenter__()
            await listener.receive()
        for one in (caller, listener):
            assert (await one.receive())["type"] == "$drain"
            status, _, told = await one.ended()
            assert (status, told["hubbub-close-code"]) == (grpc.StatusCode.UNAVAILABLE, "1012")
        await leaving.__aexit__(None, None, None)
        await listening.__aexit__(None, None, None)

    async def test_nothing_of_a_call_is_left(self):
        hub = make_hub()

        def tasks() -> set[asyncio.Task]:
            # gRPC has one that waits for the next call.
            return {task for task in asyncio.all_tasks() if "_request_call" not in repr(task)}

        async with serving(hub) as served:
            before = tasks()
            for _ in range(3):
                async with connected(served.grpc) as caller, subscribed(served.grpc, LOBBY) as listener:
                    await caller.join(LOBBY)
                    await listener.receive()
            await eventually(lambda: not hub._hub.connections and not tasks() - before)
            assert len(hub._entrance.counts) == 0
