"""Says something in the chat, over a stream both ways: python say.py token-of-ada Hello"""

import asyncio
import json
import sys

import grpc
from hubbub_pb2 import Message
from hubbub_pb2_grpc import HubbubStub

ROOM = "chat/lobby"


async def main(token: str, text: str, address: str = "localhost:50051") -> None:
    requests = [
        Message(type="$join", number=1, room=ROOM),
        Message(type="say", number=2, room=ROOM, data=json.dumps({"text": text}).encode()),
    ]
    async with grpc.aio.insecure_channel(address) as channel:
        # The server answers what it was sent, and then ends the call.
        call = HubbubStub(channel).Connect(iter(requests), metadata=[("authorization", f"Bearer {token}")])
        async for batch in call:
            for message in batch.messages:
                if message.type == "$error":
                    sys.exit(json.loads(message.data)["message"])
                if message.type == "$ack" and message.number == 2:
                    print("It was said.")


asyncio.run(main(*sys.argv[1:]))
