"""Publishes to a file until it is killed, and prints what was acknowledged: room, offset and payload.

Each payload is also its key. Before a publish is tried the first time, that is printed too.
"""

import asyncio
import sys

from hubbub.brokers.base import Entry, Retention
from hubbub.brokers.sqlite import SqliteBroker, SqliteStore

KEEP = Retention(1_000_000, 3600.0)
ROOMS = 3


class Nobody:
    def deliver(self, room: str, entry: Entry, epoch: str) -> None:
        pass

    def control(self, payload: bytes) -> None:
        pass


async def publish(broker: SqliteBroker, task: str) -> None:
    number = 0
    while True:
        number += 1
        room, text = f"room {number % ROOMS}", f"{task}/{number}"
        print("try", room, 0, text, sep="\t", flush=True)
        position = await broker.publish(room, text.encode(), sender=task, key=text, keep=KEEP)
        print("ack", room, position.offset, text, sep="\t", flush=True)


async def main(path: str, life: str) -> None:
    broker = SqliteBroker(SqliteStore(path))
    await broker.start(Nobody())
    async with asyncio.TaskGroup() as group:
        for task in range(20):
            group.create_task(publish(broker, f"{life}/{task}"))


asyncio.run(main(*sys.argv[1:]))
