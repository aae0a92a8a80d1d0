"""No library: parses nothing, answers with bytes made beforehand. What it reaches, the generator can load."""

import select
import socket
import sys

from benchmarks.frames import accept, masked, unmasked
from benchmarks.peers import ECHO, FANOUT, Echo, FanOut, Line, Peer

peer = Peer(
    name="floor",
    command=lambda port: [sys.executable, "-m", __name__, str(port)],
    echo=Echo(Line("/echo"), request=ECHO, answer=ECHO),
    fanout=FanOut(Line("/subscribe"), Line("/publish"), publish=FANOUT),
)


def upgrade(client: socket.socket) -> bytes:
    """Answer the opening handshake, the only thing that is read here, and return its path."""
    head = client.recv(4096)
    key = head.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
    client.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n\r\n" % accept(key)
    )
    return head[4 : head.find(b" ", 4)]


def main(port: int) -> None:
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    clients: dict[int, tuple[socket.socket, bytes]] = {}
    subscribers: list[socket.socket] = []
    buffer = bytearray(1 << 16)
    request, answer = len(masked(ECHO)), unmasked(FANOUT)
    while True:
        for number, _ in epoll.poll():
            if number == listener.fileno():
                client, _ = listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                path = upgrade(client)
                clients[client.fileno()] = client, path
                epoll.register(client, select.EPOLLIN)
                if path == b"/subscribe":
                    subscribers.append(client)
                continue
            client, path = clients[number]
            count = client.recv_into(buffer) // request
            if not count:
                epoll.unregister(client)
                client.close()
            elif path == b"/echo":
                client.send(answer * count)
            else:
                burst = answer * count
                for subscriber in subscribers:
                    subscriber.send(burst)


if __name__ == "__main__":
    main(int(sys.argv[1]))
