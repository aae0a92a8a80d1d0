"""Hostile handshakes: heads without end, floods of headers, values that take long to read.

How long a client may take is in tests/transports/test_http.py and tests/engine/test_sweep.py.
"""

from collections.abc import Iterator

import pytest

from conftest import Serve, Served, serving
from hubbub import Connection, Hubbub, Settings
from told import Gate, Told
from transports.raw import KEY, UPGRADE, closing, dial, request, text


def asking() -> Hubbub:
    """A hub whose endpoint looks at all that an application may look at, and then echoes."""
    hub = Hubbub()

    @hub.endpoint("/echo")
    async def echo(connection: Connection) -> None:
        request = connection.request
        assert (request.cookies, request.query_params, connection.token) is not None
        async for message in connection:
            await connection.send(message)

    return hub


@pytest.fixture(scope="module", params=["native", "asgi"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    with serving() as serve:
        yield serve(asking(), native=request.param == "native")


def works(served: Served, *headers: str, path: str = "/echo") -> None:
    """Check that a handshake with these headers is answered, and that the connection then works."""
    with dial(served) as line:
        line.open(path, headers)
        line.send(text("on"))
        assert line.message() == "on"
        line.send(closing(1000))
        assert line.close_frame()[0] == 1000


@pytest.mark.parametrize("count", [101, 2_000, 10_000])
def test_more_headers_than_allowed_are_answered_431(served: Served, count: int) -> None:
    """ws's CVE-2024-37890: so many headers that one that has to be there is not, and the process ends.

    Also Tornado's CVE-2025-67725: a header that comes again and again, joined to what it was each time.
    """
    with dial(served) as line:
        line.send_while_taken(request("/echo", *UPGRADE, *(["X-Again: x"] * count)))
        assert line.response().status == 431
        line.rest()
    works(served, *["X-Again: x"] * 90)


def test_the_limit_of_headers_is_before_those_that_a_handshake_needs(served: Served) -> None:
    """The same, with what the handshake needs at the end."""
    with dial(served) as line:
        line.send_while_taken(request("/echo", *["X-Again: x"] * 200, *UPGRADE))
        assert line.response().status == 431


@pytest.mark.parametrize("size", [40_000, 1_000_000])
@pytest.mark.parametrize(
    "name", ["X-Large", "Cookie", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Host"]
)
def test_a_header_larger_than_allowed_is_answered_431(served: Served, name: str, size: int) -> None:
    with dial(served) as line:
        line.send_while_taken(request("/echo", *UPGRADE, f"{name}: {'x' * size}"))
        # A host like that is refused for what it says, too.
        assert line.response().status in ((400, 431) if name == "Host" else (431,))
    works(served)


def test_a_header_without_end_is_answered_before_it_ends(served: Served) -> None:
    with dial(served) as line:
        line.send_while_taken(request("/echo")[:-4] + b"\r\nX-Endless: " + b"x" * 1_000_000)
        assert line.response().status == 431


def test_a_name_without_end_is_answered_before_it_ends(served: Served) -> None:
    with dial(served) as line:
        line.send_while_taken(request("/echo")[:-4] + b"\r\n" + b"X" * 1_000_000)
        assert line.response().status == 431


@pytest.mark.parametrize("size", [8_193, 100_000, 1_000_000])
def test_a_target_longer_than_allowed_is_answered_414(served: Served, size: int) -> None:
    with dial(served) as line:
        line.send_while_taken(request("/echo?" + "x" * (size - 6)))
        assert line.response().status == 414


def test_a_target_without_end_is_answered_before_it_ends(served: Served) -> None:
    with dial(served) as line:
        line.send_while_taken(b"GET /" + b"x" * 1_000_000)
        assert line.response().status == 414


def test_empty_lines_without_end_are_no_request(served: Served) -> None:
    """What an HTTP parser skips before a request is not for ever."""
    with dial(served) as line:
        line.send_while_taken(b"\r\n" * 500_000)
        assert 400 <= line.response().status < 500


TEDIOUS = {
    # ws's CVE-2021-32640 and Tornado's CVE-2025-67726.
    "spaces in a subprotocol": f"Sec-WebSocket-Protocol: a{' ' * 20_000}b",
    "commas in a subprotocol": f"Sec-WebSocket-Protocol: {',' * 20_000}",
    "spaces in what to upgrade to": f"Connection: {' ,' * 5_000}keep-alive",
    # Tornado's CVE-2024-52804, CPython's CVE-2024-7592.
    "a cookie of backslashes": "Cookie: a=" + '"' + chr(92) * 20_000 + '"',
    "a cookie of quotes": "Cookie: a=" + '"' + (chr(92) + '"') * 10_000,
    "many cookies": f"Cookie: {'a=b;' * 5_000}",
    "a long authorization": f"Authorization: {' ' * 10_000}Bearer{' ' * 10_000}x",
}


@pytest.mark.parametrize("header", TEDIOUS.values(), ids=TEDIOUS)
def test_a_tedious_header_is_read_at_once_or_refused(served: Served, header: str) -> None:
    """What takes long for its size is bounded by the size that it may have, and the server goes on.

    A Python without the mend of CVE-2024-7592 reads cookies in quadratic time, if the application asks for
    them.
    """
    with dial(served) as line:
        line.send(request("/echo", *UPGRADE, header))
        assert line.response().status in (101, 400, 431)
    works(served)


def test_a_query_of_many_parts_is_as_long_as_a_target_may_be(served: Served) -> None:
    """Tornado's CVE-2026-82397: millions of parts of a form, all of them read before anybody asks."""
    works(served, path="/echo?" + "&" * 8_000)
    works(served, path="/echo?" + "a&" * 4_000)


@pytest.mark.parametrize(
    "offered",
    ["x" * 10_000, "\xff\xfe", "hubbub.v1.json\x7f", "a/b", "", ",", "$$$", "constructor", "__proto__"],
    ids=lambda offered: repr(offered[:20]),
)
def test_a_subprotocol_that_nobody_speaks_is_not_answered_with(start: Serve, offered: str) -> None:
    """What a client offers comes back only if it is one of hubbub's two."""
    with dial(start(Hubbub())) as line:
        line.send(request("/", *UPGRADE, f"Sec-WebSocket-Protocol: {offered}"))
        response = line.response()
        assert response.status in (101, 400, 431)
        assert "sec-websocket-protocol" not in response.headers


@pytest.mark.parametrize("key", ["", "x", KEY[:-1], KEY * 2, "x" * 24, "\xff" * 24, f"{KEY}, {KEY}"])
def test_a_key_that_is_none_is_refused(served: Served, key: str) -> None:
    headers = [header for header in UPGRADE if "Key" not in header]
    with dial(served) as line:
        line.send(request("/echo", *headers, f"Sec-WebSocket-Key: {key}"))
        assert line.response().status == 400


def test_a_login_that_takes_too_long_ends(start: Serve) -> None:
    """Half open: the handshake is answered, and then the client's login is waited for."""
    hub, gate, told = Hubbub(Settings(handshake_timeout=0.2)), Gate(), Told()

    @hub.authenticate
    async def who(connection: Connection) -> str:
        told("asked")
        await gate.passed()
        return "ada"

    with dial(start(hub), "/") as line:
        assert line.close_frame()[0] == 4508
        gate.open()


def test_what_is_sent_before_the_login_is_limited(start: Serve) -> None:
    """Memory that costs nothing: whoever is not logged in yet may send much less."""
    hub, gate = Hubbub(Settings(max_message_before_login=1_000)), Gate()

    @hub.authenticate
    async def who(connection: Connection) -> str:
        await gate.passed()
        return "ada"

    with dial(start(hub), "/") as line:
        line.send(text("x" * 1_001))
        try:
            assert line.close_frame()[0] == 1009
        finally:
            gate.open()
