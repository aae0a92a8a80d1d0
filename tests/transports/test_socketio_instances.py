"""Socket.IO clients that poll through a proxy that sends each request to another instance."""

import asyncio
from contextlib import AsyncExitStack

import aiohttp
import socketio

from hubbub.brokers.memory import MemoryBroker, MemoryStore
from hubbub.testing.serving import serving
from socketio_chat import chat_hub
from transports.balancer import balancer

ARRIVES_WITHIN = 10.0


async def test_clients_meet_in_a_room_whichever_instance_their_requests_come_to():
    store = MemoryStore()
    async with AsyncExitStack() as stack:
        ports = []
        for name in ("one", "two"):
            hub = chat_hub()
            hub.broker = MemoryBroker(store, instance=name)
            hub.socketio()
            ports.append((await stack.enter_async_context(serving(hub))).port)
        port = await stack.enter_async_context(balancer(*ports))
        clients, heard = [], asyncio.Queue()
        for _ in range(3):
            http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))
            stack.push_async_callback(http.close)
            client = socketio.AsyncClient(handle_sigint=False, http_session=http)
            client.on("say", lambda data, *_: heard.put_nowait(data["text"]))
            await client.connect(f"http://127.0.0.1:{port}", transports=["polling"])
            stack.push_async_callback(client.disconnect)
            await client.call("$join", {"room": "chat/lobby"}, timeout=ARRIVES_WITHIN)
            clients.append(client)

        for number in range(20):
            said = await clients[number % 3].call(
                "say", ({"text": f"{number}"}, {"room": "chat/lobby"}), timeout=ARRIVES_WITHIN
            )
            assert said == {"said": f"{number}"}

        async with asyncio.timeout(ARRIVES_WITHIN):
            got = [await heard.get() for _ in range(40)]
        # Each to the two others.
        assert sorted(map(int, got)) == sorted([*range(20)] * 2)
