"""No library: parses only the first message of a connection, and answers with bytes made beforehand.

What it reaches, the generator can load.
"""

import select
import socket
import sys
import zlib
from collections import defaultdict
from dataclasses import dataclass, field

from benchmarks.by_path import ECHO, publisher
from benchmarks.peers import FanOut, Line, Peer, Rooms
from hubbub.load.frames import PING, PONG, accept, client_frame, unmasked

peer = Peer(
    name="floor",
    command=lambda port: [sys.executable, "-m", __name__, str(port), "plain"],
    compressed=lambda port: [sys.executable, "-m", __name__, str(port), "deflate"],
    echo=ECHO,
    fanout=FanOut(Line("/subscribe/0"), publisher(0)),
    rooms=Rooms(lambda number: Line(f"/subscribe/{number}"), publisher, publish=lambda _, text: text),
)


@dataclass
class Client:
    """A connection; all messages that it sends are taken to be like the first."""

    line: socket.socket
    receivers: list[socket.socket]
    """Who gets what it sends."""
    size: int = 0
    """Of a message on the wire; 0 until one has come."""
    answer: bytes = b""
    unread: bytearray = field(default_factory=bytearray)
    """The first message, as long as it is not whole."""
    rest: int = 0
    """Bytes of the message that has begun to come."""


class Floor:
    """The server: one thread, one epoll."""

    def __init__(self, port: int, *, deflate: bool) -> None:
        self._deflate = deflate
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._clients: dict[int, Client] = {}
        self._rooms: defaultdict[bytes, list[socket.socket]] = defaultdict(list)

    def serve(self) -> None:
        buffer = bytearray(1 << 16)
        listener, clients = self._listener.fileno(), self._clients
        while True:
            for number, _ in self._epoll.poll():
                if number == listener:
                    self._accept()
                    continue
                client = clients[number]
                try:
                    received = client.line.recv_into(buffer)
                except ConnectionResetError:
                    received = 0
                if not received:
                    self._drop(client)
                    continue
                if not client.size and not self._first(client, buffer[:received]):
                    continue
                count, client.rest = divmod(client.rest + received, client.size)
                if count:
                    self._send(client.receivers, client.answer * count)

    def _send(self, receivers: list[socket.socket], burst: bytes) -> None:
        stuck = []
        for receiver in receivers:
            try:
                receiver.send(burst)
            except BlockingIOError:
                stuck.append(receiver)
        for receiver in stuck:
            receivers.remove(receiver)  # no library, no queues: who does not read gets no more

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = client.recv(4096)  # the opening handshake comes in one piece from the generator
        key = head.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
        if not key:
            client.close()
            return
        extension = b"Sec-WebSocket-Extensions: permessage-deflate\r\n" if self._deflate else b""
        client.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n%b\r\n" % (accept(key), extension)
        )
        client.setblocking(False)
        _, action, *room = head[4 : head.find(b" ", 4)].split(b"/")
        receivers = [client]
        if action != b"echo":
            receivers = self._rooms[room[0]]
            if action == b"subscribe":
                receivers.append(client)
        self._clients[client.fileno()] = Client(client, receivers)
        self._epoll.register(client, select.EPOLLIN)

    def _first(self, client: Client, data: bytearray) -> bool:
        """Take in the first message; tell whether it is whole."""
        client.unread += data
        client.rest = -len(data)
        if (found := client_frame(client.unread)) is None:
            return False
        size, payload = found
        if client.unread[0] & 0x0F == PING:
            client.line.send(unmasked(payload, opcode=PONG))
            client.unread.clear()
            return False
        client.rest += len(client.unread)
        client.size = size
        client.unread.clear()
        if self._deflate:
            deflate = zlib.compressobj(wbits=-15)
            compressed = deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH)
            client.answer = unmasked(compressed.removesuffix(b"\0\0\xff\xff"), compressed=True)
        else:
            client.answer = unmasked(payload)
        return True

    def _drop(self, client: Client) -> None:
        del self._clients[client.line.fileno()]
        if client.line in client.receivers:
            client.receivers.remove(client.line)
        self._epoll.unregister(client.line)
        client.line.close()


if __name__ == "__main__":
    Floor(int(sys.argv[1]), deflate=sys.argv[2] == "deflate").serve()
