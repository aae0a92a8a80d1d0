"""Programs that an application starts beside gRPC, with uvloop, which forks."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("uvloop")

PROGRAM = """
import asyncio
from collections import Counter

import hubbub
import uvloop
from chat_room import LOBBY, Post, chat_hub
from hubbub.testing.serving import serving


async def talk(url: str) -> None:
    while True:
        async with hubbub.connect(url) as client:
            for _ in range(20):
                await client.request(Post(["hi"]))


async def main() -> None:
    async with serving(chat_hub_of(hubbub.Settings(grpc_port=0))) as served:
        talking = [asyncio.ensure_future(talk(served.grpc)) for _ in range(10)]
        ends = Counter()
        for _ in range(80):
            program = await asyncio.create_subprocess_exec("true", stdout=asyncio.subprocess.PIPE)
            ends[await program.wait()] += 1
        for task in talking:
            task.cancel()
        await asyncio.gather(*talking, return_exceptions=True)
    print(dict(ends))


def chat_hub_of(settings: hubbub.Settings) -> hubbub.Hubbub:
    hub = hubbub.Hubbub(settings)
    chat_hub(hub)
    return hub


uvloop.run(main())
"""


def test_programs_that_an_application_starts_do_not_crash_in_grpcs_fork_handlers():
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ran.stdout.strip().splitlines()[-1] == "{0: 80}", ran.stderr
