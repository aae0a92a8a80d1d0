import socket
import threading
from contextlib import contextmanager
from http import HTTPStatus

import pytest

from hubbub.load import Line, Step, Target
from hubbub.load.connection import Connection, Refused
from hubbub.load.frames import Answered, Closed
from load.conftest import WELCOME, in_room
from plain_server import echo, plain_server


@contextmanager
def answering(answer: bytes):
    """A server that answers anything with some bytes, and hangs up."""

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(4096)
            client.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Target("127.0.0.1", listener.getsockname()[1])
        thread.join(10)


def test_a_connection_is_opened_as_its_line_says(start, hub):
    connection = Connection(Target("127.0.0.1", start(hub).port, subprotocol="hubbub.v1.json"), in_room(1))
    assert connection.subprotocol == "hubbub.v1.json"
    connection.send(b'{"type":"$ping","id":7}')
    connection.expect(b'"id":7')
    connection.abort()


def test_a_refusal_has_status_and_body(start, hub):
    with pytest.raises(Refused) as refused:
        Connection(Target("127.0.0.1", start(hub).port), Line("/nowhere"))
    assert refused.value.status in (403, 404)


def test_what_is_not_http_is_refused_without_a_status():
    with answering(b"220 mail ready\r\n\r\n") as target, pytest.raises(Refused) as refused:
        Connection(target, Line("/"))
    assert refused.value.status == 0


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Switch"])
def test_a_server_that_hangs_up_has_closed(answer):
    with answering(answer) as target, pytest.raises(Closed):
        Connection(target, Line("/"))


def test_an_answer_to_another_key_is_refused():
    answer = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    with answering(answer) as target, pytest.raises(Refused):
        Connection(target, Line("/"))


def test_headers_without_an_end_are_not_read_for_ever():
    with answering(b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"x" * 100_000) as target:
        with pytest.raises((ValueError, OSError)) as problem:
            Connection(target, Line("/"))
        assert "headers of more than" in str(problem.value)


def test_an_error_instead_of_an_answer_is_told(start, hub):
    join = Step(b'{"type":"$join","id":1,"room":"nowhere"}', b'"id":1', others=True)
    with pytest.raises(Answered, match="unknown_room"):
        Connection(Target("127.0.0.1", start(hub).port), Line("/", (WELCOME, join)))


def test_other_messages_may_come_before_an_answer_where_it_is_said():
    async def talk(connection):
        await connection.send("one")
        await connection.send("two")
        await connection.wait_closed()

    with plain_server(talk) as server:
        Connection(server.target, Line("/", (Step(None, b"two", others=True),))).abort()
        with pytest.raises(ValueError, match="Expected a message with b'two'"):
            Connection(server.target, Line("/", (Step(None, b"two"),)))


def test_messages_that_are_compressed_are_inflated_each_with_the_context_of_those_before():
    text = b"Many voices, nothing lost. " * 20
    with plain_server(echo, compression="deflate") as server:
        connection = Connection(server.target, Line("/"), deflate=True)
        assert not connection.separate
        sizes = []
        for _ in range(2):
            connection.send(text)
            assert connection.receive() == text
            assert connection.compressed
            sizes.append(len(connection.frame))
        assert sizes[1] < sizes[0] < len(text)
        connection.abort()


def test_pings_are_answered_while_a_message_is_awaited():
    async def ping(connection):
        await (await connection.ping())
        await connection.send("was answered")
        await connection.wait_closed()

    with plain_server(ping) as server:
        connection = Connection(server.target, Line("/"))
        assert connection.receive() == b"was answered"
        connection.abort()


def test_whether_something_comes_is_heard_without_taking_it():
    async def greet(connection):
        await connection.recv()
        await connection.send("good day")
        await connection.wait_closed()

    with plain_server(greet) as server:
        connection = Connection(server.target, Line("/"))
        assert not connection.hears(0.01)
        connection.send(b"hi")
        assert connection.hears(10)
        assert connection.receive() == b"good day"
        connection.abort()


def test_a_connection_may_come_from_another_address_of_this_machine():
    async def tell(connection):
        await connection.send(connection.remote_address[0])
        await connection.wait_closed()

    with plain_server(tell) as server:
        connection = Connection(server.target, Line("/"), source="127.0.0.2")
        assert connection.receive() == b"127.0.0.2"
        connection.abort()


def test_nothing_may_be_left_unread_when_a_load_begins():
    async def talk(connection):
        await connection.send("more than was asked for")
        await connection.wait_closed()

    with plain_server(talk) as server:
        connection = Connection(server.target, Line("/"))
        assert connection.hears(10)
        with pytest.raises(ValueError, match="more than was asked for"):
            connection.release()
        assert b"more than" in connection.let_go()
        connection.abort()


def test_a_request_for_a_host_with_a_port_and_headers():
    async def tell(connection):
        headers = connection.request.headers
        await connection.send(f"{headers['Host']} {headers['Authorization']}")
        await connection.wait_closed()

    def refuse(connection, request):
        return connection.respond(HTTPStatus.FORBIDDEN, "") if request.path != "/a?b=c" else None

    with plain_server(tell, process_request=refuse) as server:
        target = Target("127.0.0.1", server.port, headers=(("Authorization", "Bearer x"),))
        connection = Connection(target, Line("/a?b=c"))
        assert connection.receive() == b"127.0.0.1:%d Bearer x" % server.port
        connection.abort()
