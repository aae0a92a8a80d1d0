"""What a client posts: taken in order, each once, and for a bounded time while its session is behind."""

import asyncio

import pytest

from hubbub.transports.http_lines import posts
from hubbub.transports.http_lines.posts import Posts

pytestmark = pytest.mark.anyio


class Session:
    """Takes so many messages, and then no more until it is told to."""

    def __init__(self, room: int = 1000) -> None:
        self.taken: list[str] = []
        self.room = room
        self.posts = Posts(self.deliver)
        self.posts.resume()

    def deliver(self, message: str) -> None:
        self.taken.append(message)
        self.room -= 1
        if self.room == 0:
            self.posts.pause()

    def make_room(self, room: int) -> None:
        self.room = room
        self.posts.resume()

    async def post(self, *messages: str, sequence: int | None = None) -> int:
        return (await self.posts.take(list(messages), sequence)).status


async def test_they_are_taken_one_after_the_other():
    session = Session(room=2)
    first = asyncio.create_task(session.post("a", "b", "c"))
    await asyncio.sleep(0)
    second = asyncio.create_task(session.post("d"))
    await asyncio.sleep(0)
    assert session.taken == ["a", "b"]
    session.make_room(10)
    assert [await first, await second] == [204, 204]
    assert session.taken == ["a", "b", "c", "d"]


async def test_nothing_is_taken_before_the_session_begins():
    session = Session()
    session.posts.pause()
    posting = asyncio.create_task(session.post("a"))
    await asyncio.sleep(0)
    assert session.taken == []
    session.posts.resume()
    assert await posting == 204


async def test_the_session_may_be_behind_for_so_long(monkeypatch):
    monkeypatch.setattr(posts, "PATIENCE", 0.05)
    session = Session(room=1)
    assert await session.post("a", "b") == 503
    assert session.taken == ["a"]
    session.make_room(5)
    assert await session.post("b") == 204


async def test_the_rest_of_a_numbered_one_is_taken_when_it_comes_again(monkeypatch):
    monkeypatch.setattr(posts, "PATIENCE", 0.05)
    session = Session(room=2)
    assert await session.post("a", "b", "c", sequence=1) == 503
    assert await session.post("z", sequence=2) == 409
    session.make_room(5)
    assert await session.post("a", "b", "c", sequence=1) == 204
    assert await session.post("a", "b", "c", sequence=1) == 204
    assert await session.post("d", sequence=2) == 204
    assert session.taken == ["a", "b", "c", "d"]


async def test_one_that_comes_again_while_it_is_taken_waits_for_that():
    session = Session(room=1)
    first = asyncio.create_task(session.post("a", "b", sequence=1))
    again = asyncio.create_task(session.post("a", "b", sequence=1))
    await asyncio.sleep(0)
    session.make_room(5)
    assert [await first, await again] == [204, 204]
    assert session.taken == ["a", "b"]


async def test_two_at_once_come_in_the_order_of_their_numbers():
    session = Session()
    assert await asyncio.gather(session.post("a", sequence=1), session.post("b", sequence=2)) == [204, 204]
    assert session.taken == ["a", "b"]


async def test_so_many_wait_and_no_more():
    session = Session()
    session.posts.pause()
    waiting = [asyncio.create_task(session.post(str(number))) for number in range(posts.MOST_WAITING)]
    await asyncio.sleep(0)
    assert await session.post("one too many") == 503
    session.posts.resume()
    assert await asyncio.gather(*waiting) == [204] * posts.MOST_WAITING
    assert session.taken == [str(number) for number in range(posts.MOST_WAITING)]


async def test_the_end_of_the_line_ends_the_wait():
    session = Session(room=1)
    waiting = [asyncio.create_task(session.post("a", "b")), asyncio.create_task(session.post("c"))]
    await asyncio.sleep(0)
    session.posts.end()
    assert await asyncio.gather(*waiting) == [404, 404]
    assert await session.post("d", sequence=7) == 404
    assert session.taken == ["a"]


async def test_one_too_many_ends_it_in_the_middle():
    session = Session()
    deliver = session.deliver

    def refuse(message: str) -> None:
        deliver(message)
        if message == "b":
            session.posts.end()

    session.posts = Posts(refuse)
    session.posts.resume()
    assert await session.post("a", "b", "c", sequence=1) == 404
    assert session.taken == ["a", "b"]


async def test_who_is_cancelled_leaves_the_others_their_turn():
    session = Session(room=1)
    first = asyncio.create_task(session.post("a", "b"))
    second = asyncio.create_task(session.post("c"))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    session.make_room(5)
    assert await second == 204
    assert session.taken == ["a", "c"]
