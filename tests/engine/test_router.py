import msgspec
import pytest
from pydantic import BaseModel

from hubbub import CollisionError, Connection, InvalidMessage, Message, wire_type
from hubbub.engine.callback import CONNECTION
from hubbub.engine.router import Router
from hubbub.protocol.codecs import JSON, MESSAGEPACK


class Say(Message):
    text: str


class MoveCursor(BaseModel):
    x: int


def router() -> Router:
    return Router("the hub", {Connection: CONNECTION})


def test_a_handler_is_found_by_the_wire_type_of_its_message():
    routes = router()

    async def say(message: Say) -> None: ...

    async def move(message: MoveCursor) -> None: ...

    routes.add(say)
    routes.add(move)
    assert routes.find("say").callback.function is say
    assert routes.find("move_cursor").callback.function is move


def test_a_found_handler_decodes_with_either_codec():
    routes = router()

    async def say(message: Say) -> None: ...

    routes.add(say)
    handler = routes.find("say")
    assert handler.decode(msgspec.Raw(b'{"text":"hi"}'), JSON) == Say(text="hi")
    packed = msgspec.Raw(msgspec.msgpack.encode({"text": "hi"}))
    assert handler.decode(packed, MESSAGEPACK) == Say(text="hi")


def test_an_unknown_type_is_answered_with_those_that_are_known():
    routes = router()
    with pytest.raises(InvalidMessage, match="it handles: none") as refused:
        routes.find("shout")
    assert refused.value.code == "unknown_type"

    async def say(message: Say) -> None: ...

    async def move(message: MoveCursor) -> None: ...

    routes.add(say)
    routes.add(move)
    with pytest.raises(InvalidMessage, match="'shout'; it handles: move_cursor, say"):
        routes.find("shout")


def test_two_handlers_of_one_type_are_an_error_that_names_both_places():
    routes = router()

    @wire_type("say")
    class Speak(Message):
        words: str

    async def say(message: Say) -> None: ...

    async def speak(message: Speak) -> None: ...

    routes.add(say)
    with pytest.raises(CollisionError) as collision:
        routes.add(speak)
    text = str(collision.value)
    assert f"say() at {__file__}:{say.__code__.co_firstlineno}" in text
    assert f"speak() at {__file__}:{speak.__code__.co_firstlineno}" in text
    assert "'say'" in text
    assert "the hub" in text
    # The first one stays.
    assert routes.find("say").callback.function is say
