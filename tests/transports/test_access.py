"""Which pages may open a WebSocket, and under which names the server may be called."""

import asyncio
import json
import logging
import urllib.error
import urllib.request

import pytest

from hubbub import ConfigurationError, Hubbub, Settings
from hubbub.observe.log import JSONFormatter
from hubbub.transports.access import HOST_REFUSED, ORIGIN_REFUSED, Access
from transports.raw import UPGRADE, dial, request, text


def scope_of(host, *origins, kind="websocket"):
    hosts = [host] if isinstance(host, str) else host
    headers = [(b"host", value.encode()) for value in hosts]
    headers += [(b"origin", value.encode("latin-1")) for value in origins]
    return {"type": kind, "scheme": "ws", "headers": headers}


def refused(host, *origins, **settings):
    return Access(Settings(**settings)).refusal(scope_of(host, *origins)) is not None


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("example.com", "http://example.com"),
        ("example.com", "https://example.com"),
        ("example.com", "https://EXAMPLE.com"),
        ("EXAMPLE.COM", "https://example.com"),
        ("example.com:8000", "http://example.com:8000"),
        ("example.com:80", "http://example.com"),
        ("example.com:443", "https://example.com"),
        ("example.com", "http://example.com:80"),
        ("example.com", "https://example.com:443"),
        ("example.com:", "https://example.com"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("[2001:DB8::1]", "https://[2001:db8::1]"),
    ],
)
def test_the_servers_own_pages_may_connect(host, origin):
    assert not refused(host, origin)


def test_who_is_no_browser_may_connect():
    assert not refused("example.com")


@pytest.mark.parametrize(
    ("site", "allowed", "refusal"),
    [
        ("cross-site", "", ORIGIN_REFUSED),
        ("same-site", "https://page.example", ORIGIN_REFUSED),
        ("cross-site", "*", None),
        ("same-origin", "", None),
        ("none", "", None),
    ],
)
def test_a_page_that_does_not_tell_its_origin_opens_no_line_unless_any_may(site, allowed, refusal):
    """Of a GET in mode ``no-cors`` no browser tells it, and it may have any ``Accept`` and cookies."""
    scope = scope_of("example.com", kind="http")
    scope["headers"].append((b"sec-fetch-site", site.encode()))
    access = Access(Settings(allowed_origins=allowed))
    assert access.refusal(scope, line=True) is refusal
    assert access.refusal(scope) is None


FOREIGN = [
    "https://evil.example",
    "https://example.com.evil.example",
    "https://evil-example.com",
    "https://sub.example.com",
    "https://example.com:8443",
    "https://example.com:80",
    "http://example.com:443",
    "null",
    "",
    "example.com",
    "//example.com",
    "https://",
    "https://example.com/",
    "https://example.com/path",
    "https://example.com?a",
    "https://evil@example.com",
    "https://example.com:https",
    "https://example.com:443:443",
    "https://example.com https://evil.example",
    "https://example.com, https://evil.example",
    " https://example.com\tx",
    "https://example.com\xe9",
    "https://*",
    "chrome-extension://example.com",
    "file://",
    "ftp://example.com",
]


@pytest.mark.parametrize("origin", FOREIGN)
def test_others_pages_and_malformed_origins_may_not(origin):
    assert refused("example.com", origin)


def test_several_origins_may_not_even_if_each_might():
    assert refused("example.com", "https://example.com", "https://example.com")
    assert refused(
        "example.com", "https://a.example", "https://a.example", allowed_origins="https://a.example"
    )


@pytest.mark.parametrize("hosts", [[], ["example.com", "example.com"], ["exa mple.com"], [""]])
def test_without_one_valid_host_no_page_is_the_servers_own(hosts):
    assert refused(hosts, "https://example.com")


@pytest.mark.parametrize(
    ("allowed", "origin", "may"),
    [
        ("https://app.example", "https://app.example", True),
        ("https://app.example", "https://APP.example:443", True),
        ("HTTPS://APP.example:443", "https://app.example", True),
        ("https://app.example", "http://app.example", False),
        ("https://app.example", "https://app.example:8443", False),
        ("https://app.example:8443", "https://app.example:8443", True),
        ("https://a.example, http://b.example:81", "http://b.example:81", True),
        ("chrome-extension://abcdef", "chrome-extension://abcdef", True),
        ("chrome-extension://abcdef", "chrome-extension://abcdeg", False),
        ("null", "null", True),
        ("https://app.example", "null", False),
        ("https://app.example", "https://own.example", True),
        ("null", "https://evil.example", False),
        ("*", "https://evil.example", True),
        ("*", "null", True),
    ],
)
def test_others_may_if_they_are_allowed(allowed, origin, may):
    assert refused("own.example", origin, allowed_origins=allowed) is not may


@pytest.mark.parametrize(
    ("allowed", "host", "may"),
    [
        ("*", "anything", True),
        ("example.com", "example.com", True),
        ("example.com", "EXAMPLE.com:8000", True),
        ("Example.com", "example.com", True),
        ("example.com", "sub.example.com", False),
        ("example.com", "example.com.evil.example", False),
        ("*.example.com", "sub.example.com", True),
        ("*.example.com", "a.b.example.com:1", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "evilexample.com", False),
        ("example.com,*.example.com", "example.com", True),
        ("127.0.0.1, [::1]", "[::1]:8000", True),
        ("example.com", "", False),
        ("example.com", "example.com:port", False),
        ("example.com", "evil@example.com", False),
        ("example.com", ["example.com", "example.com"], False),
        ("example.com", [], False),
    ],
)
def test_the_names_that_the_server_may_be_called_by_can_be_restricted(allowed, host, may):
    access = Access(Settings(allowed_hosts=allowed))
    for kind in ("websocket", "http"):
        assert (access.refusal(scope_of(host, kind=kind)) is None) is may


def test_a_page_that_gave_its_own_name_this_servers_address_is_refused_by_the_name():
    access = Access(Settings(allowed_hosts="example.com"))
    assert access.refusal(scope_of("evil.example", "http://evil.example")) is HOST_REFUSED
    assert access.refusal(scope_of("example.com", "http://evil.example")) is ORIGIN_REFUSED


def test_an_origin_is_no_matter_of_plain_http():
    assert Access(Settings()).refusal(scope_of("example.com", "https://evil.example", kind="http")) is None


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("allowed_origins", "example.com"),
        ("allowed_origins", "https://example.com/"),
        ("allowed_origins", "https://example.com, evil"),
        ("allowed_origins", "https://*.example.com"),
        ("allowed_hosts", ""),
        ("allowed_hosts", "https://example.com"),
        ("allowed_hosts", "example.com:8000"),
        ("allowed_hosts", "*.*"),
        ("allowed_hosts", "a b"),
    ],
)
def test_a_setting_that_cannot_be_ends_the_start_with_a_sentence(setting, value):
    with pytest.raises(ConfigurationError, match=setting):
        Hubbub(Settings(**{setting: value}))


# Over sockets


def guarded(**settings):
    hub = Hubbub(Settings(allowed_origins="https://app.example", **settings))

    @hub.endpoint("/echo")
    async def echo(websocket):
        async for message in websocket:
            await websocket.send(message)

    return hub


@pytest.mark.parametrize("path", ["/echo", "/"])
@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
def test_a_foreign_page_is_refused_before_the_websocket_is_opened(start, path, origin):
    with dial(start(guarded())) as line:
        line.send(request(path, *UPGRADE, f"Origin: {origin}"))
        response = line.response()
        assert response.status == 403
        assert line.rest() == b"Pages from there may not connect here.\n"


@pytest.mark.parametrize("origin", ["https://app.example", "http://localhost"])
def test_an_allowed_page_is_served(start, origin):
    with dial(start(guarded())) as line:
        line.send(request("/echo", *UPGRADE, f"Origin: {origin}"))
        assert line.response().status == 101
        line.send(text("there"))
        assert line.message() == "there"


def test_two_origins_are_refused(start):
    with dial(start(guarded())) as line:
        line.send(request("/echo", *UPGRADE, *["Origin: https://app.example"] * 2))
        assert line.response().status == 400


def test_a_name_that_is_not_the_servers_is_answered_421(start):
    served = start(guarded(allowed_hosts="example.com"))
    with dial(served) as line:
        line.send(request("/echo"))
        assert line.response().status == 421
    with pytest.raises(urllib.error.HTTPError) as answer:
        urllib.request.urlopen(f"{served.http}/healthz")
    assert (answer.value.code, answer.value.read()) == (421, b"This server does not answer to that name.\n")
    fitting = urllib.request.Request(f"{served.http}/healthz", headers={"Host": "example.com"})
    with urllib.request.urlopen(fitting) as healthy:
        assert healthy.read() == b"alive\n"


def test_a_refusal_is_one_log_line_without_secrets(start, caplog):
    with caplog.at_level(logging.WARNING, "hubbub"), dial(start(guarded())) as line:
        origin = "Origin: https://evil.example"
        line.send(request("/echo?token=secret", *UPGRADE, origin, "Authorization: Bearer secret"))
        assert line.response().status == 403
    logged = [JSONFormatter().format(record) for record in caplog.records if record.message == "refused"]
    assert len(logged) == 1
    assert "secret" not in logged[0]
    assert {"because": "allowed_origins", "peer": "127.0.0.1"}.items() <= json.loads(logged[0]).items()


@pytest.mark.anyio
async def test_without_the_extension_for_responses_it_is_a_close_before_the_accept():
    hub, sent = guarded(), []

    async def send(event):
        sent.append(event)

    async def receive():
        await asyncio.Event().wait()

    scope = {**scope_of("example.com", "https://evil.example"), "path": "/echo", "subprotocols": []}
    await hub(scope, receive, send)
    reason = "Pages from there may not connect here."
    assert sent == [{"type": "websocket.close", "code": 1008, "reason": reason}]
