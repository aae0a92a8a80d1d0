import asyncio

import pytest

from hubbub.client.silence import Silence

pytestmark = pytest.mark.anyio


async def test_silence_ends_the_block():
    async def hear() -> None:
        async with Silence(0.01):
            await asyncio.get_running_loop().create_future()

    with pytest.raises(TimeoutError):
        await hear()


async def test_what_is_heard_puts_the_end_off():
    loop = asyncio.get_running_loop()
    begun = loop.time()

    async def hear() -> None:
        async with Silence(0.02) as silence:
            silence.heard = silence.now() + 0.05
            await loop.create_future()

    with pytest.raises(TimeoutError):
        await hear()
    assert loop.time() - begun >= 0.06


async def test_without_a_limit_it_waits():
    async with Silence(None):
        await asyncio.sleep(0)


async def test_after_the_block_no_timer_is_left():
    async with Silence(0.01):
        pass
    await asyncio.sleep(0.02)
