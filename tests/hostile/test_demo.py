"""The demo as a target: it is what people put online first."""

from collections.abc import Iterator

import pytest

from conftest import Served, serving
from hubbub.demo import app
from transports.raw import dial, request
from wire import talk


@pytest.fixture(scope="module", params=["native", "asgi"])
def demo(request: pytest.FixtureRequest) -> Iterator[Served]:
    with serving() as serve:
        yield serve(app, native=request.param == "native")


def get(demo: Served, path: str, *headers: str) -> tuple[int, dict[str, str], bytes]:
    with dial(demo) as line:
        line.send(request(path, "Accept: */*", *headers))
        response = line.response()
        return response.status, response.headers, line.read(int(response.headers["content-length"]))


@pytest.mark.parametrize(
    "path",
    [
        "/static/../__init__.py",
        "/static/%2e%2e/__init__.py",
        "/static/..%2f__init__.py",
        "/static/..%5c__init__.py",
        "/static/....//__init__.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/../../../../../../../../etc/passwd",
        "/static/" + "%2e%2e%2f" * 10 + "etc/passwd",
        "/static/chat.css%00.py",
        "/static/../static1",
        "/static/.",
        "/static/",
        "/static",
        "/__init__.py",
        "//etc/passwd",
    ],
)
def test_no_path_leads_out_of_what_is_served(demo: Served, path: str) -> None:
    """aiohttp's CVE-2024-23334 and CVE-2025-69226, Starlette's CVE-2023-29159: files beside the directory."""
    status, headers, body = get(demo, path)
    assert status in (400, 404, 405)
    assert "location" not in headers
    assert b"hub = Hubbub()" not in body
    assert b"root:" not in body


def test_ranges_without_end_are_not_put_together(demo: Served) -> None:
    """Starlette's CVE-2025-62727: each range compared with all others."""
    ranges = ",".join(f"{number}-{number}" for number in range(0, 5_000, 2))
    status, _, body = get(demo, "/static/chat.js", f"Range: bytes={ranges}")
    assert status in (200, 206, 400, 416)
    assert len(body) < 2_000_000


async def test_a_name_that_could_be_mistaken_is_refused(demo: Served) -> None:
    for name in ("", "%20", "a:b", "guest:1", "x" * 25, "a%0ab", "a%E2%80%AEb", "a%00"):
        async with talk(f"{demo.url}/?name={name}", welcome=False) as client:
            assert (await client.receive())["data"]["code"] == "denied", name
            assert (await client.closed())[0] == 4401


async def test_a_room_has_a_plain_name_and_a_text_is_short(demo: Served) -> None:
    async with talk(f"{demo.url}/?name=eve") as client:
        for room in ("chat/A", "chat/a b", "chat/<script>", "chat/" + "a" * 33, "chat/a%2fb", "chat/lobby\n"):
            answer = await client.ask(type="$join", room=room)
            assert answer["data"]["code"] in ("denied", "unknown_room"), room
        await client.join("chat/lobby")
        answer = await client.ask(type="say", room="chat/lobby", data={"text": "x" * 2_001})
        assert answer["data"]["code"] == "invalid"


def test_the_page_runs_nothing_that_is_not_its_own(demo: Served) -> None:
    _, headers, _ = get(demo, "/")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy
