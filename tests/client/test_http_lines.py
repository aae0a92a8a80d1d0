"""Lines over HTTP: what comes down, what goes up, how they end, and when they can't be opened."""

import asyncio
import gc
import json
import ssl
import time
import zlib
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from client.http_far_end import far_end
from client.lines import soon, until
from hubbub import ConfigurationError, Message
from hubbub.client import LineLost, NotConnected
from hubbub.client.http_lines import carrying, dialling, polling, posting

pytestmark = pytest.mark.anyio

KINDS = ("sse", "stream", "poll")


class Say(Message):
    text: str


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def line_of(kind: str, *, token: str | None = None, **options):
    """Yield a server, a line to it, and the line's far end."""
    async with far_end() as end:
        line = await dialling(end.url(kind), **options)(token)
        try:
            yield end, line, await end.line()
        finally:
            await line.close(1006)


class TestWhatComesDown:
    async def test_is_received_message_by_message(self, kind):
        async with line_of(kind) as (_, line, far):
            assert line.subprotocol == "hubbub.v1.json"
            assert line.name == f"{kind}+http"
            for text in ("one", "zwei ü", "three"):
                far.say("say", data={"text": text})
            texts = [json.loads(await soon(line.recv()))["data"]["text"] for _ in range(3)]
            assert texts == ["one", "zwei ü", "three"]

    async def test_a_cancelled_receive_has_taken_nothing(self, kind):
        async with line_of(kind) as (_, line, far):
            for number in range(20):
                receiving = asyncio.ensure_future(line.recv())
                await asyncio.sleep(0.005 if number % 2 else 0)
                far.say("say", data=number)
                for _ in range(number):
                    await asyncio.sleep(0)
                receiving.cancel()
                try:
                    message = await receiving
                except asyncio.CancelledError:
                    message = await soon(line.recv())
                assert json.loads(message)["data"] == number

    async def test_a_close_says_code_and_reason_after_all_else_was_received(self, kind):
        async with line_of(kind) as (_, line, far):
            far.say("last")
            far.end(4403, "not you")
            assert json.loads(await soon(line.recv())) == {"type": "last"}
            for _ in range(2):
                with pytest.raises(LineLost) as lost:
                    await soon(line.recv())
                assert (lost.value.code, lost.value.reason) == (4403, "not you")
            with pytest.raises(LineLost):
                await line.send("{}")

    async def test_a_response_that_just_ends_is_a_lost_line(self, kind):
        async with line_of(kind) as (_, line, far):
            far.end()
            with pytest.raises(LineLost) as lost:
                await soon(line.recv())
            assert lost.value.code == 1006

    async def test_what_only_mentions_a_close_is_a_message(self, kind):
        async with line_of(kind) as (_, line, far):
            far.say("say", data={"text": '"$close"', "type": "$close"})
            assert json.loads(await soon(line.recv()))["type"] == "say"

    async def test_a_message_that_is_too_large_ends_the_line(self, kind):
        async with line_of(kind, max_size=1000) as (_, line, far):
            far.say("fits", data="x" * 900)
            assert "fits" in await soon(line.recv())
            far.say("large", data="x" * 1000)
            with pytest.raises(LineLost) as lost:
                await soon(line.recv())
            assert lost.value.code == 1009

    @pytest.mark.parametrize(("kind", "beat"), [("sse", b":\n\n"), ("stream", b"\n")])
    async def test_a_heartbeat_is_heard_and_is_no_message(self, kind, beat):
        async with line_of(kind) as (_, line, far):
            receiving = asyncio.ensure_future(line.recv())
            before = line.heard_at
            await asyncio.sleep(0.01)
            far.raw(beat)
            await until(lambda: line.heard_at > before)
            assert not receiving.done()
            far.say("say")
            assert json.loads(await soon(receiving)) == {"type": "say"}

    async def test_a_poll_acknowledges_what_was_received(self):
        async with line_of("poll") as (_, line, far):
            far.say("one")
            far.say("two")
            assert [json.loads(await soon(line.recv()))["type"] for _ in range(2)] == ["one", "two"]
            receiving = asyncio.ensure_future(line.recv())
            await until(lambda: far.polls[-1:] == ["3"])
            far.say("three")
            assert json.loads(await soon(receiving))["type"] == "three"

    @pytest.mark.parametrize("status", [204, 503])
    async def test_a_poll_that_does_not_reach_its_line_is_made_again(self, status, monkeypatch):
        monkeypatch.setattr(polling, "AGAIN_AFTER", 0.001)
        async with line_of("poll") as (_, line, far):
            far.polls_refused = [status] * 20
            receiving = asyncio.ensure_future(line.recv())
            far.say("say")
            assert json.loads(await soon(receiving))["type"] == "say"
            assert not far.polls_refused

    @pytest.mark.parametrize("status", [204, 503])
    async def test_for_so_long(self, status, monkeypatch):
        monkeypatch.setattr(polling, "AGAIN_AFTER", 0.01)
        monkeypatch.setattr(polling, "AWAY_FOR", 0.05)
        async with line_of("poll") as (_, line, far):
            far.polls_refused = [status] * 1000
            with pytest.raises(LineLost, match=str(status)):
                await soon(line.recv())

    async def test_who_waits_to_poll_again_can_close(self):
        async with line_of("poll") as (_, line, far):
            far.polls_refused = [503] * 1000
            receiving = asyncio.ensure_future(line.recv())
            await until(lambda: len(far.polls_refused) < 999)
            await line.close(1000)
            with pytest.raises(LineLost):
                await soon(receiving)

    @pytest.mark.parametrize("kind", ["sse", "stream"])
    async def test_who_does_not_receive_slows_the_server_down(self, kind):
        async with line_of(kind) as (_, line, far):
            for number in range(100):
                far.say("say", data=[number, "x" * 200_000])
            await asyncio.sleep(0.3)
            waiting = len(far._said)
            assert waiting > 20
            for number in range(100):
                assert json.loads(await soon(line.recv()))["data"][0] == number


class TestWhatGoesUp:
    async def test_arrives_in_order_numbered_and_in_few_requests(self, kind):
        async with line_of(kind) as (_, line, far):
            for number in range(250):
                await line.send(json.dumps({"type": "say", "data": number}))
            assert [(await far.heard("say"))["data"] for _ in range(250)] == list(range(250))
            assert [sequence for sequence, _ in far.posts] == list(range(1, len(far.posts) + 1))
            assert len(far.posts) < 20
            assert {kind for _, kind in far.posts} <= {"application/json", "application/x-ndjson"}

    async def test_a_message_with_line_breaks_stays_one(self, kind):
        async with line_of(kind) as (_, line, far):
            texts = ['{"type": "a"}', '{\n"type": "b"}', '{"type": "c"}', '{"type": "d"}']
            for text in texts:
                await line.send(text)
            assert [await far.heard_raw() for _ in texts] == texts

    async def test_sending_waits_while_the_server_takes_nothing(self, kind):
        async with line_of(kind) as (_, line, far):
            far.reading.clear()
            sent = 0

            async def send() -> None:
                nonlocal sent
                while sent < 100:
                    await line.send(json.dumps({"type": "say", "data": "x" * 10_000}))
                    sent += 1

            sending = asyncio.ensure_future(send())
            await asyncio.wait({sending}, timeout=0.2)
            assert 0 < sent < 16
            far.reading.set()
            await soon(sending)

    async def test_a_post_on_a_connection_that_was_just_closed_is_made_again(self, kind):
        async with line_of(kind) as (_, line, far):
            far.statuses = [0]
            await line.send('{"type": "say"}')
            await far.heard("say")
            assert far.posts == [(1, "application/json")]

    @pytest.mark.parametrize(
        ("status", "code"),
        [(404, 1006), (409, 1006), (500, 1006), (401, 4401), (403, 1006), (413, 1009)],
    )
    async def test_a_refused_post_ends_the_line(self, kind, status, code, monkeypatch):
        monkeypatch.setattr(carrying, "EXPLAINS_WITHIN", 0.05)
        async with line_of(kind) as (_, line, far):
            receiving = asyncio.ensure_future(line.recv())
            far.statuses = [status]
            await line.send('{"type": "say"}')
            with pytest.raises(LineLost, match=str(status)) as lost:
                await soon(receiving)
            assert lost.value.code == code
            with pytest.raises(LineLost):
                await line.send('{"type": "say"}')

    async def test_what_the_server_says_of_the_end_counts_more_than_a_refused_post(self, kind):
        async with line_of(kind) as (_, line, far):
            far.statuses = [404]
            await line.send('{"type": "say"}')
            await until(lambda: line._refused)
            sending = asyncio.ensure_future(line.send('{"type": "say"}'))
            await asyncio.sleep(0.01)
            far.end(4409, "replaced")
            for task in (line.recv(), sending):
                with pytest.raises(LineLost) as lost:
                    await soon(task)
                assert lost.value.code == 4409

    async def test_a_post_that_is_swallowed_is_made_again_on_another_connection(self, kind, monkeypatch):
        monkeypatch.setattr(posting, "ANSWERED_WITHIN", 0.1)
        async with line_of(kind) as (_, line, far):
            far.swallows = 1
            await line.send('{"type": "say"}')
            await far.heard("say")
            assert far.posts == [(1, "application/json")]

    async def test_a_large_post_has_time_to_get_there(self, kind, monkeypatch):
        monkeypatch.setattr(posting, "ANSWERED_WITHIN", 0.0)
        monkeypatch.setattr(posting, "SLOWEST", 100)
        async with line_of(kind) as (_, line, far):
            await line.send(json.dumps({"type": "say", "data": "x" * 1000}))
            await far.heard("say")

    async def test_a_post_that_is_not_answered_ends_the_line(self, kind, monkeypatch):
        monkeypatch.setattr(carrying, "EXPLAINS_WITHIN", 0.05)
        monkeypatch.setattr(posting, "ANSWERED_WITHIN", 0.05)
        async with line_of(kind) as (_, line, far):
            far.reading.clear()
            await line.send('{"type": "say"}')
            with pytest.raises(LineLost, match="not answered"):
                await soon(line.recv())

    async def test_a_post_that_finds_the_session_behind_is_made_again(self, kind, monkeypatch):
        monkeypatch.setattr(posting, "AGAIN_AFTER", 0.01)
        async with line_of(kind) as (_, line, far):
            far.statuses = [503, 503]
            await line.send('{"type": "say"}')
            await far.heard("say")
            assert [sequence for sequence, _ in far.posts] == [1, 1, 1]

    async def test_a_server_that_is_behind_for_too_long_ends_the_line(self, kind, monkeypatch):
        monkeypatch.setattr(carrying, "EXPLAINS_WITHIN", 0.05)
        monkeypatch.setattr(posting, "AGAIN_AFTER", 0.01)
        monkeypatch.setattr(posting, "BEHIND_FOR", 0.05)
        async with line_of(kind) as (_, line, far):
            far.statuses = [503] * 1000
            await line.send('{"type": "say"}')
            with pytest.raises(LineLost, match="503"):
                await soon(line.recv())

    async def test_what_is_too_large_together_goes_in_smaller_parts(self, kind):
        async with line_of(kind) as (_, line, far):
            far.statuses = [413, 413]
            for number in range(40):
                await line.send(json.dumps({"type": "say", "data": number}))
            assert [(await far.heard("say"))["data"] for _ in range(40)] == list(range(40))
            assert [sequence for sequence, _ in far.posts][:3] == [1, 1, 1]
            assert len(far.posts) >= 5

    async def test_bytes_are_refused(self, kind):
        async with line_of(kind) as (_, line, _far):
            with pytest.raises(TypeError, match="text"):
                await line.send(b"\x80")


class TestClosing:
    async def test_sends_what_waits_and_tells_the_server(self, kind):
        async with line_of(kind) as (_, line, far):
            for number in range(3):
                await line.send(json.dumps({"type": "say", "data": number}))
            await line.close(1000)
            assert far.deleted.is_set()
            assert [(await far.heard("say"))["data"] for _ in range(3)] == [0, 1, 2]
            await line.close(1000)
            with pytest.raises(LineLost):
                await line.recv()

    async def test_1006_lets_go_at_once(self, kind):
        async with line_of(kind) as (_, line, far):
            far.reading.clear()
            await line.send('{"type": "say"}')
            await line.close(1006)
            assert not far.deleted.is_set()

    async def test_does_not_wait_for_a_server_that_takes_nothing(self, kind, monkeypatch):
        monkeypatch.setattr(carrying, "CLOSES_WITHIN", 0.1)
        async with line_of(kind) as (_, line, far):
            far.reading.clear()
            await line.send('{"type": "say"}')
            begun = time.monotonic()
            await line.close(1000)
            assert time.monotonic() - begun < 2

    async def test_leaves_no_task_and_no_connection(self, kind):
        before = asyncio.all_tasks()
        async with far_end() as end:
            for code in (1000, 1006):
                line = await dialling(end.url(kind))(None)
                far = await end.line()
                await line.send('{"type": "say"}')
                await far.heard("say")
                await until(lambda: not any("posting" in task.get_name() for task in asyncio.all_tasks()))
                await line.close(code)
            del line
        gc.collect()
        assert asyncio.all_tasks() == before


class TestNoLine:
    async def test_login_and_headers_are_in_every_request(self, kind):
        options = {"headers": {"X-One": "1"}}
        async with line_of(kind, token="secret", **options) as (_, line, far):
            assert far.request.headers["Authorization"] == "Bearer secret"
            assert far.request.headers["X-One"] == "1"
            await line.close()

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 406, 408, 429, 500, 503])
    async def test_http_refuses(self, kind, status):
        async with far_end() as end:
            end.refusals = [status]
            with pytest.raises(NotConnected, match=str(status)) as refused:
                await dialling(end.url(kind))(None)
            assert refused.value.status == status
            assert refused.value.comes_back is (status in (408, 429, 500, 503))
            assert refused.value.for_all is (status == 401)

    async def test_http_says_when_to_come_back(self, kind):
        async with far_end() as end:
            end.refusals = [web.Response(status=503, headers={"Retry-After": "7"})]
            with pytest.raises(NotConnected) as refused:
                await dialling(end.url(kind))(None)
            assert refused.value.after == 7.0

    async def test_a_page_is_no_line(self, kind):
        async with far_end() as end:
            end.refusals = [web.Response(text="<p>", content_type="text/html")]
            with pytest.raises(NotConnected, match="text/html") as refused:
                await dialling(end.url(kind))(None)
            assert not refused.value.comes_back

    async def test_a_redirection_is_followed_on_the_same_host_only(self, kind):
        async with far_end() as end, far_end() as other:
            there = f"http://127.0.0.1:{end.port}/hub?x=1"
            for place, followed in (
                ("/hub?x=1", True),
                (there, True),
                (f"http://localhost:{end.port}/", False),
                (f"http://127.0.0.1:{other.port}/", False),
                (f"//127.0.0.1:{other.port}/", False),
                (there.replace("http:", "ftp:"), False),
                ("", False),
            ):
                end.refusals = [web.Response(status=307, headers={"Location": place})]
                if followed:
                    line = await dialling(end.url(kind, "/old"))("t")
                    assert (await end.line()).request.path_qs == "/hub?x=1"
                    await line.close()
                else:
                    with pytest.raises(NotConnected, match="307"):
                        await dialling(end.url(kind))("t")
            assert len(end.lines) == 2
            assert other.lines == []

    async def test_what_comes_is_not_inflated(self, kind):
        named = '{"type":"$line","data":{"line":"x"}}'
        content_type, body = {
            "sse": ("text/event-stream", f"data: {named}\n\n"),
            "stream": ("application/x-ndjson", f"{named}\n"),
            "poll": ("application/json", f'{{"received":1,"messages":[{named}]}}'),
        }[kind]
        headers = {"Content-Type": content_type}
        deflated = {**headers, "Content-Encoding": "deflate"}
        async with line_of(kind) as (_, _, far):
            assert far.request.headers["Accept-Encoding"] == "identity"
        async with far_end() as end:
            end.refusals = [
                web.Response(body=body.encode(), headers=headers),
                web.Response(body=zlib.compress(body.encode()), headers=deflated),
            ]
            await (await dialling(end.url(kind))("t")).close(1006)
            with pytest.raises(NotConnected):
                await dialling(end.url(kind))("t")

    async def test_a_line_that_is_never_named_is_given_up(self, kind):
        async with far_end() as end:
            end.named = False
            with pytest.raises(NotConnected, match=r"within 0\.1 s"):
                await dialling(end.url(kind), open_timeout=0.1)(None)

    async def test_a_server_that_says_something_else_first_is_none(self, kind):
        async with far_end() as end:
            end.named = False
            dial = asyncio.ensure_future(dialling(end.url(kind))(None))
            (await end.line()).say("hello")
            with pytest.raises(NotConnected, match="hello") as refused:
                await dial
            assert not refused.value.comes_back

    async def test_nobody_is_there(self, kind):
        async with far_end() as end:
            url = end.url(kind)
        with pytest.raises(NotConnected) as refused:
            await dialling(url)(None)
        assert refused.value.comes_back

    async def test_a_header_that_can_not_be_sent_is_not_repeated(self, kind):
        with pytest.raises(NotConnected) as refused:
            await dialling(f"{kind}+http://127.0.0.1:1")("secret\n")
        assert refused.value.for_all
        assert "secret" not in str(refused.value)

    async def test_cancelling_leaves_nothing(self, kind):
        async with far_end() as end:
            end.named = False
            dial = asyncio.ensure_future(dialling(end.url(kind))(None))
            await end.line()
            dial.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dial

    @pytest.mark.parametrize(
        "url",
        ["sse+ws://x", "sse+http://", "poll+https://[::1", "stream+http:///path", "tcp+http://x"],
    )
    def test_a_url_that_is_none_is_told(self, url):
        with pytest.raises(ConfigurationError):
            dialling(url)

    def test_tls_needs_an_encrypted_url(self, kind):
        with pytest.raises(ConfigurationError, match="not encrypted"):
            dialling(f"{kind}+http://x", ssl=ssl.create_default_context())
