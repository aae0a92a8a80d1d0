"""Pages of other origins, names of other hosts, and proxies that are none."""

import json

import pytest

from conftest import Serve, Served
from hubbub import Connection, Hubbub, Settings
from transports.raw import UPGRADE, Line, closing, dial, text

HOST = "chat.example.com"
OWN = f"https://{HOST}"


def asking(settings: Settings | None = None) -> Hubbub:
    hub = Hubbub(settings)

    @hub.endpoint("/who")
    async def who(connection: Connection) -> None:
        peer = connection.remote_address
        await connection.send(json.dumps([peer and peer[0], str(connection.request.url.scheme)]))
        async for _ in connection:
            pass

    return hub


def shake_hands(line: Line, *headers: str, host: str = HOST, path: str = "/who") -> int:
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", *UPGRADE, *headers]
    line.send(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    return line.response().status


def status(served: Served, *headers: str, host: str = HOST) -> int:
    with dial(served) as line:
        return shake_hands(line, *headers, host=host)


STRANGERS = [
    "null",
    "https://evil.example",
    # Those that only begin, or end, or look like it.
    f"https://{HOST}.evil.example",
    f"https://evil-{HOST}",
    f"https://evil.{HOST}",
    "https://example.com",
    f"https://{HOST}:444",
    f"https://{HOST}:0",
    f"https://{HOST}:443:443",
    f"https://{HOST}.",
    f"https://{HOST}/",
    f"https://{HOST}/path",
    f"https://{HOST}?",
    f"https://{HOST}#",
    f"https://{HOST}@evil.example",
    f"https://evil.example@{HOST}",
    f"https://evil.example#{HOST}",
    f"https://evil.example\\@{HOST}",
    f"https://evil.example,{OWN}",
    f"{OWN}, https://evil.example",
    f"{OWN} https://evil.example",
    f"https://*.{HOST}",
    "https://*",
    "*",
    "https://[::1]",
    "https://chat.ex\u0430mple.com".encode().decode("latin-1"),
    "https://xn--chat-exmple-com",
    f"https:{HOST}",
    f"//{HOST}",
    HOST,
    f"chrome-extension://{HOST}",
    f"ws://{HOST}",
    f"file://{HOST}",
    "file://",
    "https://",
    "://",
]


@pytest.fixture
def served(start: Serve) -> Served:
    return start(asking())


def test_a_page_of_another_origin_may_not_connect(served: Served) -> None:
    """python-engineio's CVE-2019-13611: a page that connects with the cookies of whoever looks at it."""
    answers = {origin: status(served, f"Origin: {origin}") for origin in STRANGERS}
    assert {origin for origin, answer in answers.items() if answer != 403} == set()


def test_an_own_page_and_what_is_no_page_may_connect(served: Served) -> None:
    """Programs send no `Origin`; browsers can't help but send one."""
    assert status(served, f"Origin: {OWN}") == 101
    assert status(served) == 101
    assert status(served, "Origin: http://localhost:8000", host="localhost:8000") == 101
    assert status(served, "Origin: http://[::1]:8000", host="[::1]:8000") == 101


@pytest.mark.parametrize(
    "headers", [(f"Origin: {OWN}", "Origin: https://evil.example"), (f"Origin: {OWN}",) * 2]
)
def test_two_origins_are_none(served: Served, headers: tuple[str, ...]) -> None:
    assert status(served, *headers) in (400, 403)


@pytest.mark.parametrize(
    "header",
    [
        "X-Forwarded-Host: evil.example",
        "X-Original-Host: evil.example",
        "X-Host: evil.example",
        "Forwarded: host=evil.example",
        "Sec-WebSocket-Origin: " + OWN,
    ],
)
def test_no_other_header_says_which_host_this_is(served: Served, header: str) -> None:
    assert status(served, "Origin: https://evil.example", header) == 403


def test_only_those_that_are_allowed_are_allowed(start: Serve) -> None:
    served = start(asking(Settings(allowed_origins="https://app.example.org, http://localhost:3000")))
    for origin in ("https://app.example.org", "http://localhost:3000", OWN):
        assert status(served, f"Origin: {origin}") == 101
    for origin in (
        "http://app.example.org", "https://app.example.org:8443", "https://app.example.org.evil.example",
        "https://evilapp.example.org", "https://a.app.example.org", "http://localhost", "http://localhost:30000",
        "null",
    ):  # fmt: skip
        assert status(served, f"Origin: {origin}") == 403, origin


def test_a_name_that_is_not_the_server_s_is_refused(start: Serve) -> None:
    """DNS rebinding: a page gives its own name the server's address, and then its origin is the host's."""
    served = start(asking(Settings(allowed_hosts=f"{HOST}, *.example.net")))
    assert status(served, f"Origin: {OWN}") == 101
    assert status(served, host="a.example.net") == 101
    assert status(served, host=f"{HOST}:8000") == 101
    for host in (
        "evil.example", f"{HOST}.evil.example", f"evil-{HOST}", "example.net", "evilexample.net",
        f"{HOST}@evil.example", "127.0.0.1", "localhost", f"{HOST}, evil.example", "*.example.net",
    ):  # fmt: skip
        headers = [f"Origin: https://{host}"]
        assert status(served, *headers, f"X-Forwarded-Host: {HOST}", host=host) in (400, 403, 421), host


def test_who_a_client_is_only_a_trusted_proxy_may_say(start: Serve) -> None:
    """An address of the client's own choice would be one that no limit counts, and no log knows."""
    served = start(asking(), forwarded_allow_ips="192.0.2.1")
    with dial(served) as line:
        assert shake_hands(line, "X-Forwarded-For: 198.51.100.7", "X-Forwarded-Proto: https") == 101
        assert json.loads(line.message()) == ["127.0.0.1", "ws"]


def test_of_what_a_trusted_proxy_says_the_last_counts(start: Serve) -> None:
    """What stands before it, the client has sent."""
    with dial(start(asking(), forwarded_allow_ips="127.0.0.1")) as line:
        assert (
            shake_hands(line, "X-Forwarded-For: 203.0.113.9, 198.51.100.7", "X-Forwarded-Proto: https") == 101
        )
        assert json.loads(line.message()) == ["198.51.100.7", "wss"]


def test_one_address_takes_no_more_than_its_places_whatever_it_says(start: Serve) -> None:
    """Exhaustion by one client that gives itself many addresses."""
    served = start(asking(Settings(max_connections_per_address=2)), forwarded_allow_ips="192.0.2.1")
    with dial(served) as first, dial(served) as second:
        assert shake_hands(first, "X-Forwarded-For: 198.51.100.1") == 101
        assert shake_hands(second, "X-Forwarded-For: 198.51.100.2") == 101
        with dial(served) as third:
            third.send(b"GET /who HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 198.51.100.3\r\n\r\n")
            assert third.response().status == 429


def test_behind_a_trusted_proxy_every_client_has_places_of_its_own(start: Serve) -> None:
    served = start(asking(Settings(max_connections_per_address=1)), forwarded_allow_ips="127.0.0.1")
    with dial(served) as ada, dial(served) as bob, dial(served) as eve:
        assert shake_hands(ada, "X-Forwarded-For: 198.51.100.1") == 101
        assert shake_hands(bob, "X-Forwarded-For: 198.51.100.2") == 101
        # What the client itself has put before its address changes nothing.
        assert shake_hands(eve, "X-Forwarded-For: 203.0.113.5, 198.51.100.1") == 429


def test_a_place_is_free_again_when_its_connection_has_ended(start: Serve) -> None:
    served = start(asking(Settings(max_connections=1)))
    for _ in range(5):
        with dial(served) as line:
            assert shake_hands(line) == 101
            line.message()
            with dial(served) as other:
                assert other.response().status == 503
            line.send(text("bye") + closing(1000))
            assert line.close_frame()[0] == 1000
            assert line.rest() == b""
