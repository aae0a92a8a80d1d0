"""Every peer that is installed here does the work it is measured at, as an independent client sees it."""

import os
import runpy
import subprocess
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.peers import ECHO, Echo, Line, Peer, floor_server, text
from benchmarks.servers import Server, redis_missing, serving, serving_across, serving_with_redis
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.sync.client import ClientConnection, connect

from benchmarks import peers
from hubbub.load.frames import client_frame
from hubbub.load.numbered import frames

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="needs Linux: servers are bound to a core"
)

# floor looks at nothing, so it answers only the generator rightly.
INSTALLED = [peer for peer in peers.find()[0].values() if peer.name != "floor"]
PATIENCE = 10


def those_with(part: str) -> pytest.MarkDecorator:
    able = [peer for peer in INSTALLED if getattr(peer, part)]
    return pytest.mark.parametrize("peer", able, ids=lambda peer: peer.name)


def running(peer: Peer) -> AbstractContextManager[Server]:
    return serving(peer, min(os.sched_getaffinity(0)))


def connected(stack: ExitStack, server: Server, line: Line, *, offers: str | None = None) -> ClientConnection:
    client = stack.enter_context(
        connect(
            f"ws://127.0.0.1:{server.port}{line.path}",
            compression=offers,
            open_timeout=PATIENCE,
            close_timeout=PATIENCE,
            ping_interval=None,
            proxy=None,
        )
    )
    for step in line.opening:
        if step.send is not None:
            client.send(step.send.decode())
        assert step.answer in received(client)
    return client


def received(client: ClientConnection) -> bytes:
    message = client.recv(PATIENCE)
    assert isinstance(message, str)
    return message.encode()


def deflated(client: ClientConnection) -> bool:
    return any(isinstance(extension, PerMessageDeflate) for extension in client.protocol.extensions)


def assert_all_receive(clients: Sequence[ClientConnection], part: bytes) -> None:
    """All must be given one and the same message with `part` in it."""
    first, *rest = [received(client) for client in clients]
    assert part in first
    assert rest == [first] * len(rest)


def request(echo: Echo) -> bytes:
    """The next message that asks for an echo."""
    frame = client_frame(next(frames(echo.request)))
    assert frame is not None
    return frame[1]


@those_with("echo")
def test_a_peer_answers_each_message_with_an_echo_of_one_size(peer: Peer) -> None:
    assert peer.echo is not None
    with running(peer) as server, ExitStack() as stack:
        client = connected(stack, server, peer.echo.line)
        for _ in range(8):
            client.send(request(peer.echo).decode())
        answers = [received(client) for _ in range(8)]

    assert all(peer.echo.answer in answer for answer in answers)
    assert len({len(answer) for answer in answers}) == 1


@those_with("echo")
def test_what_is_echoed_is_as_long_for_every_peer(peer: Peer) -> None:
    assert peer.echo is not None
    assert abs(len(request(peer.echo)) - len(ECHO)) <= 1


@those_with("fanout")
def test_a_peer_gives_every_subscriber_what_is_published_in_order(peer: Peer) -> None:
    assert peer.fanout is not None
    with running(peer) as server, ExitStack() as stack:
        publisher = connected(stack, server, peer.fanout.publisher)
        subscribers = [connected(stack, server, peer.fanout.subscriber) for _ in range(3)]
        texts = [text(size) for size in (64, 1000, 64, 65, 66, 67, 68, 69)]
        for published in texts:
            publisher.send(peer.fanout.publish(published).decode())

        for published in texts:
            assert_all_receive(subscribers, peer.fanout.delivery(published))


@those_with("fanout")
def test_a_subscriber_that_leaves_is_not_missed(peer: Peer) -> None:
    assert peer.fanout is not None
    with running(peer) as server, ExitStack() as stack:
        publisher = connected(stack, server, peer.fanout.publisher)
        leaving, *staying = (connected(stack, server, peer.fanout.subscriber) for _ in range(3))
        leaving.close()
        for published in (text(64), text(1000)):
            publisher.send(peer.fanout.publish(published).decode())
            assert_all_receive(staying, peer.fanout.delivery(published))


@those_with("rooms")
def test_a_peer_gives_the_members_of_a_room_what_is_published_there_and_nothing_else(peer: Peer) -> None:
    assert peer.rooms is not None
    with running(peer) as server, ExitStack() as stack:
        publishers = [connected(stack, server, peer.rooms.publisher(room)) for room in range(2)]
        members = [[connected(stack, server, peer.rooms.member(room)) for _ in range(2)] for room in range(2)]
        for published, room in ((text(64), 0), (text(65), 1), (text(66), 0)):
            publishers[room].send(peer.rooms.publish(room, published).decode())
            assert_all_receive(members[room], peer.rooms.delivery(published))


@pytest.mark.skipif(redis_missing() is not None, reason="needs redis-server")
@those_with("across")
def test_what_is_published_on_one_instance_is_given_to_subscribers_of_another(peer: Peer) -> None:
    assert peer.across is not None
    fanout = peer.across.fanout
    with serving_across(peer, min(os.sched_getaffinity(0))) as server, ExitStack() as stack:
        subscribers = [connected(stack, server, fanout.subscriber) for _ in range(3)]
        publisher = connected(stack, server.others["publisher"], fanout.publisher)
        for published in (text(64), text(1000), text(65)):
            publisher.send(fanout.publish(published).decode())
            assert_all_receive(subscribers, fanout.delivery(published))


@pytest.mark.skipif(redis_missing() is not None, reason="needs redis-server")
@those_with("held")
@pytest.mark.parametrize("shared", [False, True], ids=["in memory", "over Redis"])
def test_a_connection_joins_as_many_rooms_as_it_asks_for(peer: Peer, shared: bool) -> None:
    assert peer.held is not None
    core = min(os.sched_getaffinity(0))
    with (serving_with_redis if shared else serving)(peer, core) as server, ExitStack() as stack:
        client = connected(stack, server, peer.held.line)
        for number in range(5):
            client.send(peer.held.join(number).decode())
            assert peer.held.joined in received(client)


@those_with("compressed")
def test_a_peer_compresses_for_who_offers_it_where_it_is_told_to(peer: Peer) -> None:
    assert peer.fanout is not None
    assert peer.compressed is not None
    with running(replace(peer, command=peer.compressed)) as server, ExitStack() as stack:
        publisher = connected(stack, server, peer.fanout.publisher)
        subscriber = connected(stack, server, peer.fanout.subscriber, offers="deflate")
        assert deflated(subscriber)
        publisher.send(peer.fanout.publish(text(1000)).decode())
        assert_all_receive([subscriber], peer.fanout.delivery(text(1000)))


@pytest.mark.parametrize("peer", INSTALLED, ids=lambda peer: peer.name)
def test_a_peer_tells_its_versions(peer: Peer) -> None:
    versions = peer.all_versions().values()

    assert versions
    assert all(told[0].isdigit() for told in versions)


def test_without_node_its_peer_is_missing_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    with pytest.raises(ImportError, match="there is no node on the PATH"):
        runpy.run_path(str(Path(peers.__file__).with_name("ws_server.py")))


@pytest.mark.parametrize(
    "program", ["exec false", "exec nowhere", "echo a library is missing >&2; exit 127", "exec sleep 30"]
)
def test_a_peer_whose_program_does_not_run_is_missing_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    def versions() -> dict[str, str]:
        subprocess.run(["/bin/sh", "-c", program], capture_output=True, text=True, check=True, timeout=0.5)
        return {}

    monkeypatch.setattr(floor_server, "peer", replace(floor_server.peer, versions=versions))
    found, missing = peers.find()

    assert "floor" not in found
    assert missing["floor"]
    assert ("a library is missing" in missing["floor"]) == ("library" in program)
