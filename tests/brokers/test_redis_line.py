import pytest

from hubbub.brokers.redis.address import address_of
from hubbub.brokers.redis.line import BROKEN, Line
from hubbub.testing.servers.redis import RedisServer


async def test_a_socket_that_is_closed_already_when_it_is_written_to_is_a_lost_line(monkeypatch):
    async with RedisServer() as server:
        address = address_of(server.url)
        line = Line(address, address.places[0])
        await line.connect()

        async def closed(*command, **options):
            # As uvloop has it.
            raise RuntimeError(
                "unable to perform operation on <TCPTransport closed=True>; the handler is closed"
            )

        monkeypatch.setattr(line._connection, "send_packed_command", closed)
        line.send(b"PING\r\n")
        with pytest.raises(BROKEN, match="closed the connection"):
            await line.run()
        await line.close()
