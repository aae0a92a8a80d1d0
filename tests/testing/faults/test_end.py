"""One end of a proxied connection."""

import asyncio
import socket

from hubbub.testing.faults.end import End, Mark, reset_socket


class Noted:
    """A stream that only notes what it is fed."""

    def __init__(self) -> None:
        self.fed: list[bytes | Mark] = []

    def feed(self, data: bytes | Mark) -> None:
        self.fed.append(data)

    def go_on(self) -> None:
        pass


async def test_an_end_that_was_reset_just_now_may_still_be_finished():
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        peer = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
    accepted.setblocking(False)
    noted = Noted()

    def made() -> End:
        end = End()
        end.outgoing = end.incoming = noted
        return end

    _, end = await loop.connect_accepted_socket(made, accepted)
    # The event loop has no turn between, so nobody has told the end.
    reset_socket(peer)
    end.finish()
    async with asyncio.timeout(10):
        await end.lost.wait()
    assert noted.fed == [Mark.LOST]
