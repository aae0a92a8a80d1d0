"""picows on uvloop, by its listeners: whole frames, handled where they are parsed, without a task."""

import sys
from collections import defaultdict

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from benchmarks.by_path import ECHO, FANOUT, JOINED, ROOMS
from benchmarks.peers import Peer

peer = Peer(
    name="picows",
    command=lambda port: [sys.executable, "-m", __name__, str(port)],
    echo=ECHO,
    fanout=FANOUT,
    rooms=ROOMS,
    packages=("picows", "aiofastnet", "uvloop"),
)

Members = set[WSTransport]
rooms: defaultdict[bytes, Members] = defaultdict(set)


class Echoer(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())


class Subscriber(WSListener):
    def __init__(self, members: Members) -> None:
        self._members = members

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._members.add(transport)
        transport.send(WSMsgType.TEXT, JOINED)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._members.discard(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()


class Publisher(WSListener):
    def __init__(self, members: Members) -> None:
        self._members = members

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
            return
        payload = frame.get_payload_as_bytes()
        for member in self._members:
            member.send(WSMsgType.TEXT, payload)


def listen(request: WSUpgradeRequest) -> WSListener:
    _, action, *room = request.path.split(b"/")
    if action == b"echo":
        return Echoer()
    return (Subscriber if action == b"subscribe" else Publisher)(rooms[room[0]])


async def main(port: int) -> None:
    server = await ws_create_server(listen, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
