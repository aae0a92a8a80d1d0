"""hubbub's gRPC server: its limits, TLS, health, settings, and that of somebody else."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chat_room import LOBBY, Say, chat_hub
from hubbub import ConfigurationError, Denied, Hubbub, Settings
from hubbub.testing.faults import FaultProxy, Reset, Stall
from hubbub.testing.processes import Process
from hubbub.testing.serving import serving
from hubbub.transports.grpc.health import Health
from hubbub.transports.grpc.service import address_of
from told import collected_logs
from transports.grpc_calls import Caller, channel_to, connected, pb, services, settled, subscribed

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
async def grpc_is_left() -> AsyncIterator[None]:
    yield
    await settled()


SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def make_hub(**settings: object) -> Hubbub:
    hub = Hubbub(Settings(**{"grpc_port": 0, "drain": 1.0, **settings}))  # type: ignore[arg-type]
    chat = chat_hub(hub)

    @chat.on_message
    async def say(message: Say) -> None:
        pass

    return hub


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


async def refused(url: str, **options: object):
    """Return how a call of `Connect` is refused."""
    async with connected(url, welcome=False, **options) as caller:
        return await caller.ended()


class TestLimits:
    async def test_a_message_that_is_too_large_ends_the_line(self):
        async with serving(make_hub(max_message=1000)) as served, connected(served.grpc) as caller:
            await caller.send(type="say", id=1, data={"text": "x" * 900})
            assert (await caller.receive())["data"]["code"] == "unknown_type"
            await caller.send(type="say", id=2, data={"text": "x" * 1000})
            status, details, told = await caller.ended()
        assert (status, details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "over the size limit of 1000 bytes")
        assert told["hubbub-close-code"] == "1009"

    async def test_its_size_is_that_of_the_envelope_in_utf_8(self):
        async with serving(make_hub(max_message=1000)) as served, connected(served.grpc) as caller:
            await caller.call.write(pb.Message(type="say", data=b'"' + "é".encode() * 480 + b'"'))
            assert (await caller.receive())["type"] == "$error"
            await caller.call.write(pb.Message(type="say", data=b'"' + "é".encode() * 495 + b'"'))
            assert (await caller.ended())[2]["hubbub-close-code"] == "1009"

    async def test_what_is_far_too_large_is_not_taken_in(self):
        async with serving(make_hub(max_message=1000)) as served, connected(served.grpc) as caller:
            await caller.send(type="say", data={"text": "x" * 10_000_000})
            status, details, _ = await caller.ended()
            assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "larger than max" in details

    async def test_too_many_messages(self):
        hub = make_hub(max_message_rate=1, max_message_burst=20)
        async with serving(hub) as served, connected(served.grpc) as caller:
            for _ in range(21):
                await caller.send(type="$ping")
            status, _, told = await caller.ended()
            assert (status, told["hubbub-close-code"]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "4529")

    async def test_too_many_lines(self):
        hub = make_hub(max_connections=2)
        async with serving(hub) as served, connected(served.grpc), connected(served.grpc):
            status, details, told = await refused(served.grpc)
        assert status is grpc.StatusCode.UNAVAILABLE
        assert details == "The server has no place for more connections; try again later."
        assert told == {"hubbub-status": "503", "hubbub-retry-after": "5"}

    async def test_too_many_lines_from_one_address(self):
        settings = {"max_connections_per_address": 2, "forwarded_allow_ips": ""}
        async with serving(make_hub(**settings)) as served:
            async with connected(served.grpc) as first, subscribed(served.grpc):
                status, _, told = await refused(served.grpc)
                assert (status, told["hubbub-status"]) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "429")
                first.call.cancel()

            async def has_place() -> bool:
                async with connected(served.grpc, welcome=False) as caller:
                    metadata = await caller.call.initial_metadata()
                    return "hubbub-protocol" in dict(metadata)

            async with asyncio.timeout(5):
                while not await has_place():
                    pass

    async def test_behind_a_trusted_proxy_it_is_the_client_s_address_that_counts(self):
        one, another = ((("x-forwarded-for", f"198.51.100.{number}"),) for number in (1, 2))
        async with (
            serving(make_hub(max_connections_per_address=1)) as served,
            connected(served.grpc, metadata=one),
            connected(served.grpc, metadata=another),
        ):
            assert (await refused(served.grpc, metadata=one))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED

    async def test_headers_that_are_far_too_large(self):
        async with serving(make_hub(max_header_bytes=1024)) as served:
            status, details, _ = await refused(served.grpc, metadata=(("x-large", "x" * 3000),))
            assert status is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "hard limit" in details

    async def test_headers_that_are_too_large(self):
        """Up to twice the limit gRPC refuses by chance, the sooner the more there are: some of these."""

        async def is_refused(url: str) -> bool:
            async with connected(url, welcome=False, metadata=(("x-large", "x" * 1300),)) as caller:
                if await caller.call.initial_metadata():
                    return False
                status, details, _ = await caller.ended()
                assert (status, "soft limit" in details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
                return True

        async with serving(make_hub(max_header_bytes=1024)) as served, connected(served.grpc):
            for _ in range(30):
                if await is_refused(served.grpc):
                    return
            raise AssertionError("all were let in")

    async def test_too_many_calls_on_one_connection_wait_for_each_other(self):
        """A proxy's connection has many addresses, so the number of lines from each bounds none of it."""

        def call(number: int) -> Caller:
            metadata = (("x-forwarded-for", f"198.51.100.{number}"),)
            return Caller(services.HubbubStub(channel).Connect(metadata=metadata))

        hub = make_hub(max_connections_per_address=2)
        async with serving(hub) as served, channel_to(served.grpc) as channel:
            first, second = call(1), call(2)
            for caller in (first, second):
                assert (await caller.receive())["type"] == "$welcome"
            third = call(3)
            welcome = asyncio.create_task(third.receive())
            # These were begun later, or on the same connection.
            for number in range(10):
                await second.ask(type="$ping", id=number)
                async with connected(served.grpc):
                    pass
            assert not welcome.done()
            first.call.cancel()
            assert (await welcome)["type"] == "$welcome"
            second.call.cancel()
            third.call.cancel()

    async def test_a_login_that_takes_too_long(self):
        hub = make_hub(handshake_timeout=0.3)

        @hub.authenticate
        async def who() -> None:
            await asyncio.Event().wait()

        async with serving(hub) as served:
            status, _, told = await refused(served.grpc)
            assert (status, told["hubbub-close-code"]) == (grpc.StatusCode.ABORTED, "4508")

    async def test_who_may_not_connect(self):
        hub = make_hub()

        @hub.on_connect
        async def refuse() -> None:
            raise Denied("Not yoü.")

        async with serving(hub) as served:
            assert await refused(served.grpc) == (
                grpc.StatusCode.PERMISSION_DENIED,
                "Not yoü.",
                {"hubbub-close-code": "4403", "hubbub-close-reason": "Not yo%C3%BC."},
            )


async def test_an_origin_counts_as_over_http_and_a_host_does_not():
    async with serving(make_hub(allowed_hosts="example.com")) as served:
        async with connected(served.grpc):
            pass
        status, _, told = await refused(served.grpc, metadata=(("origin", "https://elsewhere.example"),))
        assert (status, told["hubbub-status"]) == (grpc.StatusCode.PERMISSION_DENIED, "403")


def contents(certificate: dict[str, str]) -> tuple[bytes, bytes]:
    return Path(certificate["ssl_certfile"]).read_bytes(), Path(certificate["ssl_keyfile"]).read_bytes()


class TestTheNetwork:
    async def test_a_client_that_is_not_there_any_more_is_let_go(self):
        gone = asyncio.Event()
        hub = make_hub(ping_interval=1.0, ping_timeout=1.0)

        @hub.on_disconnect
        async def disconnect() -> None:
            gone.set()

        async with serving(hub) as served:
            port = int(served.grpc.rpartition(":")[2])
            async with (
                FaultProxy("127.0.0.1", port) as proxy,
                connected(proxy.url(scheme="grpc").rstrip("/")),
            ):
                proxy.apply(Stall(seconds=60))
                async with asyncio.timeout(10):
                    await gone.wait()
                proxy.apply(Reset())


class TestWhatFails:
    async def test_a_hub_that_can_t_start_tells_the_log_and_not_the_client(self, monkeypatch):
        hub = make_hub()

        async def fail(*_: object) -> None:
            raise RuntimeError("secret")

        async with serving(hub) as served:
            monkeypatch.setattr(hub._entrance, "ready", fail)
            with collected_logs() as logs:
                status, details, _ = await refused(served.grpc)
            assert (status, details) == (grpc.StatusCode.INTERNAL, "internal error")
            assert any(record.exc_info for record in logs.records)


class TestTLS:
    async def ping(self, url: str, credentials: grpc.ChannelCredentials) -> str:
        async with channel_to(url, credentials) as channel:
            caller = Caller(services.HubbubStub(channel).Connect(timeout=10))
            return (await caller.receive())["type"]

    async def test_with_the_settings_of_the_server(self, certificate):
        trusted, _ = contents(certificate)
        async with serving(make_hub(**certificate)) as served:
            assert served.grpc.startswith("grpcs://")
            assert await self.ping(served.grpc, grpc.ssl_channel_credentials(trusted)) == "$welcome"

    async def test_clients_show_a_certificate_where_they_have_to(self, certificate):
        trusted, key = contents(certificate)
        hub = make_hub(**certificate, ssl_ca_certs=certificate["ssl_certfile"])
        async with serving(hub) as served:
            own = grpc.ssl_channel_credentials(trusted, key, trusted)
            assert await self.ping(served.grpc, own) == "$welcome"
            with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
                await self.ping(served.grpc, grpc.ssl_channel_credentials(trusted))

    @pytest.mark.parametrize(
        ("settings", "told"),
        [
            ({"ssl_keyfile_password": "x"}, "a private key with a password"),
            ({"ssl_ciphers": "ECDHE+AESGCM"}, "GRPC_SSL_CIPHER_SUITES"),
            ({"ssl_ca_certs": "/nowhere"}, "can't be read"),
        ],
    )
    async def test_what_grpc_can_t_do_is_said_at_the_start(self, certificate, settings, told):
        applied = Settings(**{"grpc_port": 0, **certificate, **settings})
        with pytest.raises(ConfigurationError, match=told):
            make_hub().grpc_server(applied)


class TestHealth:
    async def test_it_serves_while_readyz_says_ready(self):
        hub = make_hub()
        async with serving(hub) as served, channel_to(served.grpc) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            for service in ("", "hubbub.v1.Hubbub"):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
                assert answer.status == SERVING
            hub._entrance.leaving = True
            assert (await health.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
            hub._entrance.leaving = False
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await health.Check(health_pb2.HealthCheckRequest(service="another"))
            assert raised.value.code() is grpc.StatusCode.NOT_FOUND

    async def test_who_watches_is_told_of_the_broker_s_outage_and_of_the_end(self, monkeypatch):
        hub = make_hub()
        async with serving(hub) as served:
            opened = channel_to(served.grpc)
            channel = await opened.__aenter__()
            watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watching.read()).status == SERVING
            broker = type(hub._hub.running.broker)
            monkeypatch.setattr(broker, "available", False)
            assert (await watching.read()).status == NOT_SERVING
            monkeypatch.setattr(broker, "available", True)
            assert (await watching.read()).status == SERVING
        assert (await watching.read()).status == NOT_SERVING
        assert await watching.read() is grpc.aio.EOF
        await opened.__aexit__(None, None, None)

    async def test_an_end_that_comes_while_something_else_is_told_is_told_too(self):
        told: list[int] = []

        class Watching:
            async def write(self, answer: health_pb2.HealthCheckResponse) -> None:
                told.append(answer.status)
                health.leave()

        class Admitting:
            async def admit(self, *_: object) -> None: ...

            def scope_of(self, *_: object) -> None: ...

        health = Health(lambda: True, Admitting())
        async with asyncio.timeout(10):
            await health.watch(health_pb2.HealthCheckRequest(), Watching())
        assert told == [SERVING, NOT_SERVING]


class TestSettings:
    async def test_a_port_that_is_taken_is_said(self):
        async with serving(make_hub()) as served:
            port = int(served.grpc.rpartition(":")[2])
            with collected_logs() as logs, pytest.raises(RuntimeError, match="did not start"):
                async with serving(make_hub(grpc_port=port)):
                    pass
            assert any("Give another --host or --grpc-port" in record.getMessage() for record in logs.records)

    async def test_with_workers_it_is_one_port_that_is_named(self):
        with pytest.raises(ConfigurationError, match="say which"):
            make_hub().grpc_server(Settings(grpc_port=0, workers=2))

    async def test_workers_share_the_port(self, tmp_path):
        (tmp_path / "app.py").write_text(
            "import os\nfrom hubbub import Connection, Hubbub, Message\nhub = Hubbub()\n"
            "class Hello(Message):\n    pid: int\n"
            "@hub.on_connect\nasync def greet(connection: Connection) -> None:\n"
            "    await connection.send(Hello(os.getpid()))\n"
        )
        port = free_port()
        process = Process.serving("app:hub", directory=tmp_path, workers=2, grpc_port=port, drain=1)
        async with process:
            seen = set()
            async with asyncio.timeout(30):
                while len(seen) < 2:
                    async with connected(f"grpc://127.0.0.1:{port}") as caller:
                        seen.add((await caller.receive())["data"]["pid"])

    async def test_an_application_without_a_hub_has_nothing_to_serve(self):
        async def application(scope, receive, send) -> None:
            raise AssertionError

        with pytest.raises(RuntimeError, match="did not start"):
            async with serving(application, settings=Settings(grpc_port=0)):
                pass


class TestAServerOfSomebodyElse:
    async def test_the_service_is_added_to_it(self):
        hub = make_hub(grpc_port=None)
        server = grpc.aio.server()
        hub.add_to_grpc(server, health=True)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        url = f"grpc://127.0.0.1:{port}"
        async with hub.lifespan(), connected(url) as caller, channel_to(url) as channel:
            await caller.join(LOBBY)
            await hub.rooms[0](name="lobby").send(Say(text="hi"))
            assert (await caller.receive())["data"] == {"text": "hi"}
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert answer.status == SERVING
        await server.stop(1)


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:40000", ("127.0.0.1", 40000)),
        ("ipv6:%5B::1%5D:40000", ("::1", 40000)),
        ("ipv6:[fe80::1%25eth0]:40000", ("fe80::1%eth0", 40000)),
        ("unix:/run/hubbub.sock", None),
        ("unix:", None),
        ("", None),
    ],
)
async def test_what_grpc_calls_a_peer(peer, address):
    assert address_of(peer) == address
