"""Prints what is said in the chat, also after a restart of the server: python listen.py token-of-bob"""

import asyncio
import json
import sys

import grpc
from hubbub_pb2 import Messages, Position, Subscription
from hubbub_pb2_grpc import HubbubStub

ROOM = "chat/lobby"

STAY_AWAY = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


class Listener:
    """Where it is in the room, across calls."""

    def __init__(self) -> None:
        self.position: Position | None = None
        self.wait = 0.0

    async def listen(self, stub: HubbubStub, token: str) -> None:
        """Make one call, until it ends."""
        room = Subscription.Room(name=ROOM, since=self.position)
        call = stub.Subscribe(Subscription(rooms=[room]), metadata=[("authorization", f"Bearer {token}")])
        async for batch in call:
            self.take(batch)

    def take(self, batch: Messages) -> None:
        for message in batch.messages:
            data = json.loads(message.data or b"{}")
            if message.type in ("$ack", "$gap"):
                # Where the room's messages go on. After a gap, those before it are no longer kept.
                if message.type == "$gap":
                    print("Something was missed.")
                if self.position is None or message.type == "$gap":
                    self.position = Position(**data)
            elif message.type == "$drain":
                self.wait = data["after"]
            elif message.type == "$error":
                sys.exit(data["message"])
            elif message.offset:
                assert self.position is not None
                self.position.offset = message.offset
                print(f"{message.sender}: {data['text']}", flush=True)


async def main(token: str, address: str = "localhost:50051") -> None:
    listener = Listener()
    async with grpc.aio.insecure_channel(address) as channel:
        while True:
            try:
                await listener.listen(HubbubStub(channel), token)
            except grpc.aio.AioRpcError as problem:
                if problem.code() in STAY_AWAY:
                    sys.exit(problem.details())
            await asyncio.sleep(listener.wait or 0.5)
            listener.wait = 0.0


asyncio.run(main(*sys.argv[1:]))
