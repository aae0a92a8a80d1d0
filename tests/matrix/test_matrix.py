"""One behavioural suite over all lines and hosts. What it shows is told in docs/compatibility.md."""

import asyncio
import uuid
from contextlib import AsyncExitStack

from hubbub.client.line import LineLost, NotConnected
from matrix.application import LIMITS, REMEMBERED
from matrix.conftest import Cell, LastWords, Running, Seen
from matrix.differences import BEHAVIOURS, DRAINED, inapplicable
from matrix.lines import ADA, BOB, CLEO, Caller, Speaker
from matrix.narrow import narrowed

PER_ADDRESS = int(LIMITS["HUBBUB_MAX_CONNECTIONS_PER_ADDRESS"])


def a_room(kind: str = "chat") -> str:
    """Return a room that no other test is in."""
    return f"{kind}/{uuid.uuid4().hex}"


async def turned_away(caller: Caller, token: str | None = ADA, **headers: str) -> tuple[str, int | None]:
    """Return how a line is refused: with an HTTP status, or opened and closed with a code."""
    try:
        line = await caller.dial(token, **headers)
    except NotConnected as refused:
        return "status", refused.status
    try:
        lost = await Speaker(line).closed()
        return "close", lost.code
    finally:
        await line.close()


async def test_connect(cell: Cell):
    async with cell.caller.logged_in() as ada:
        cell.check("connect", (ada.welcome["protocol"], ada.welcome["resumed"]), (1, False))


async def test_login(cell: Cell):
    async with cell.caller.logged_in(BOB) as bob:
        cell.check("login", bob.welcome["user"], "bob")


async def test_not_logged_in(cell: Cell):
    seen: list[object] = []
    for token in (None, "made-up"):
        try:
            async with cell.caller.opened(token) as guest:
                refused = (await guest.receive("$error"))["data"]
                lost = await guest.closed()
                seen.append((refused["code"], refused["message"], lost.code, lost.reason))
        except NotConnected as refusal:
            seen.append(refusal.reason)
    cell.check("not logged in", seen, [("denied", "Log in first.", 4401, "Log in first.")] * 2)


async def test_join(cell: Cell):
    async with cell.caller.logged_in() as ada:
        joined = await ada.ask(type="$join", room=a_room())
        refused = await ada.ask(type="$join", room="chat/staff")
        unknown = await ada.ask(type="$join", room="other/room")
        seen = (joined["type"], refused["data"]["code"], unknown["data"]["code"])
        cell.check("join", seen, ("$ack", "denied", "unknown_room"))


async def test_send(cell: Cell):
    room = a_room()
    async with cell.caller.logged_in(ADA) as ada, cell.caller.logged_in(BOB) as bob:
        await ada.join(room)
        await bob.join(room)
        await ada.send(type="say", room=room, data={"text": "hi"})
        promised = {"type": "say", "room": room, "offset": 1, "from": "ada"}
        for member in (ada, bob):
            message = await member.receive("say")
            assert message.pop("data")["text"] == "hi"
            cell.check("send", message, promised)


async def test_order(cell: Cell):
    room = a_room()
    texts = [str(number) for number in range(40)]
    async with cell.caller.logged_in(ADA) as ada, cell.caller.logged_in(BOB) as bob:
        await bob.join(room)
        await ada.join(room)
        for text in texts:
            await ada.send(type="say", room=room, data={"text": text})
        cell.check("order", await bob.said(len(texts)), texts)


async def test_reply(cell: Cell):
    async with cell.caller.logged_in() as ada:
        answer = await ada.ask(type="add", data={"left": 2, "right": 3})
        cell.check("reply", (answer["type"], answer["data"]), ("$ack", {"value": 5}))


async def test_exclude(cell: Cell):
    room = a_room()
    async with cell.caller.logged_in(ADA) as ada, cell.caller.logged_in(BOB) as bob:
        await ada.join(room)
        await bob.join(room)
        await ada.send(type="say", room=room, data={"text": "to the others", "to_others": True})
        await ada.send(type="say", room=room, data={"text": "to all"})
        seen = (await ada.said(1), await bob.said(2))
        cell.check("exclude", seen, (["to all"], ["to the others", "to all"]))


async def test_presence(cell: Cell):
    room = a_room()
    async with cell.caller.logged_in(ADA) as ada:
        await ada.join(room)
        async with cell.caller.logged_in(BOB) as bob:
            await bob.join(room)
            joined = (await ada.receive("$joined"))["data"]
            members = (await ada.ask(type="$presence", room=room))["data"]["members"]
        left = (await ada.receive("$left"))["data"]
        seen = [[member["user"] for member in members_] for members_ in (joined, members, left)]
        cell.check("presence", seen, [["bob"], ["ada", "bob"], ["bob"]])


async def test_error(cell: Cell):
    async with cell.caller.logged_in() as ada:
        failed = await ada.ask(type="fail")
        invalid = await ada.ask(type="add", data={"left": "two", "right": 3})
        after = await ada.ask(type="add", data={"left": 2, "right": 3})
        seen = (failed["data"]["code"], invalid["data"]["errors"][0]["path"], after["type"])
        cell.check("error", seen, ("internal", "$.left", "$ack"))


async def test_too_big(cell: Cell, ends_of_too_big: Seen):
    cell.check("too big", ends_of_too_big[cell.line.name], 1009)


async def test_too_many_messages(cell: Cell):
    async with cell.caller.logged_in() as ada:
        try:
            for _ in range(2000):
                await ada.send(type="$ping")
        except LineLost:
            pass
        cell.check("too many messages", (await ada.closed()).code, 4529)


async def test_wrong_origin(cell: Cell):
    own = f"http://127.0.0.1:{cell.running.port(cell.line)}"
    let_in = await _lets_in(cell.caller, Origin=own)
    seen = (await turned_away(cell.caller, Origin="https://evil.example"), "let in" if let_in else "refused")
    cell.check("wrong origin", seen, (("status", 403), "let in"))


async def test_too_many_connections(cell: Cell):
    async with AsyncExitStack() as stack:
        for _ in range(PER_ADDRESS):
            try:
                line = await cell.caller.dial(ADA)
            except NotConnected:
                break  # others than lines may count, and those of the test before may not have ended yet
            stack.push_async_callback(line.close)
            if (await _first(line)) != "$welcome":
                break
        seen = await turned_away(cell.caller)
        cell.check("too many connections", seen, ("status", 429))
    async with asyncio.timeout(10):
        while not await _lets_in(cell.caller):
            pass  # each attempt takes a while: the server learns of the ends meanwhile


async def _first(line) -> str:
    try:
        return (await Speaker(line).receive())["type"]
    except LineLost as lost:
        return str(lost.code)


async def _lets_in(caller: Caller, **headers: str) -> bool:
    try:
        line = await caller.dial(ADA, **headers)
    except NotConnected:
        return False
    try:
        return await _first(line) == "$welcome"
    finally:
        await line.close()


async def test_heartbeat(cell: Cell, heard_in_silence: Seen):
    cell.check("heartbeat", heard_in_silence[cell.line.name], True)


async def _come_back(speaker: Speaker, welcome: dict, room: str, position: dict) -> dict:
    return await speaker.ask(
        type="$resume", data={"session": welcome["session"], "rooms": {room: position}, "attempt": 1}
    )


async def test_resume(cell: Cell):
    room = a_room()
    async with cell.caller.logged_in(BOB) as bob:
        async with cell.caller.logged_in(ADA) as ada:
            position = await ada.join(room)
            await bob.join(room)
            await bob.say(room, "before")
            assert await ada.said(1) == ["before"]
            position["offset"] = 1
            welcome = ada.welcome
            await ada.line.close(1006)
        await bob.say(room, "meanwhile", "and again")
        async with cell.caller.logged_in(ADA) as ada:
            resumed = await _come_back(ada, welcome, room, position)
            seen = (resumed["type"], resumed["data"]["resumed"], await ada.said(2))
            cell.check("resume", seen, ("$welcome", True, ["meanwhile", "and again"]))
            await bob.say(room, "after")
            assert await ada.said(1) == ["after"]


async def test_gap(cell: Cell):
    room = a_room("short")
    async with cell.caller.logged_in(BOB) as bob:
        async with cell.caller.logged_in(ADA) as ada:
            position = await ada.join(room)
            await bob.join(room)
            welcome = ada.welcome
            await ada.line.close(1006)
        await bob.say(room, *map(str, range(REMEMBERED + 2)))
        async with cell.caller.logged_in(ADA) as ada:
            await ada.send(
                type="$resume", id="back", data={"session": welcome["session"], "rooms": {room: position}}
            )
            seen = [await ada.receive() for _ in range(2 + REMEMBERED)]
            cell.check(
                "gap", [envelope["type"] for envelope in seen], ["$welcome", "$gap", *["say"] * REMEMBERED]
            )


async def test_drain(cell: Cell, last_words: dict[str, LastWords]):
    words = last_words[cell.line.name]
    # How a line was lost, each kind says in words of its own.
    reason = "" if words.end.code == 1006 else words.end.reason
    cell.check("drain", (words.told, words.end.code, reason), DRAINED)


COUNT, AT_ONCE, SIZE = 400, 10, 16384
"""A flood that no buffers on the way hold, in parts that the server holds for one who reads."""


async def test_slow_reader(cell: Cell):
    room = a_room("slow")
    numbers = list(range(COUNT))
    async with (
        narrowed(cell.running.port(cell.line)) as way,
        cell.caller.logged_in(BOB) as bob,
        cell.running.caller(cell.line, way.port).opened(CLEO) as cleo,
    ):
        assert (await cleo.receive())["type"] == "$welcome"
        position = await cleo.join(room)
        await bob.join(room)
        way.hold()
        # Who reads is not held up.
        for first in range(0, COUNT, AT_ONCE):
            await bob.send(type="pour", room=room, data={"first": first, "count": AT_ONCE, "size": SIZE})
            for number in range(first, first + AT_ONCE):
                assert (await bob.receive("drop"))["data"]["number"] == number
        way.let_go()
        heard: list[int] = []
        try:
            async with asyncio.timeout(10):
                while len(heard) < COUNT:
                    heard.append((await cleo.receive("drop"))["data"]["number"])
            end = None
        except LineLost as lost:
            end = lost.code
        assert heard == numbers[: len(heard)]
        cell.check("slow reader", end, 4513)
        # It comes back for the rest.
        async with cell.caller.logged_in(CLEO) as cleo:
            await cleo.join(room, since={**position, "offset": len(heard)})
            rest = [(await cleo.receive("drop"))["data"]["number"] for _ in range(COUNT - len(heard))]
            assert heard + rest == numbers


async def test_what_does_not_apply(running: Running):
    """gRPC is told to listen, under every host; only one does."""
    listens = True
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", running.grpc_port)
        writer.close()
        await writer.wait_closed()
    except ConnectionRefusedError:
        listens = False
    assert listens == (inapplicable("grpc", running.host.name) is None)


def test_each_behaviour_has_its_test():
    tests = {"test_" + behaviour.replace(" ", "_") for behaviour in BEHAVIOURS}
    meta = {"test_what_does_not_apply", "test_each_behaviour_has_its_test"}
    assert {name for name in globals() if name.startswith("test_")} == tests | meta
