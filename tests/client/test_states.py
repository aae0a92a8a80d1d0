import asyncio
import gc

import pytest

from hubbub import State, StateChange
from hubbub.client.states import KEPT, States

pytestmark = pytest.mark.anyio


def change(number: int) -> StateChange:
    return StateChange(State.WAITING, wait=float(number))


async def test_who_watches_sees_the_present_state_and_each_that_follows():
    states = States()
    watch = states.watch()
    assert (await anext(watch)).state is State.CONNECTING
    coming = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    states.change(StateChange(State.OPEN))
    assert (await coming).state is State.OPEN
    assert states.current.state is State.OPEN


async def test_it_ends_after_closed():
    states = States()
    watch = states.watch()
    states.change(StateChange(State.CLOSED, code=4403))
    assert [change.state async for change in watch] == [State.CONNECTING, State.CLOSED]
    assert [change.code async for change in states.watch()] == [4403]


async def test_who_does_not_look_loses_the_oldest():
    states = States()
    watch = states.watch()
    for number in range(KEPT + 10):
        states.change(change(number))
    assert (await anext(watch)).wait == 10.0


async def test_who_watches_no_more_is_forgotten():
    states = States()
    watch = states.watch()
    del watch
    gc.collect()
    assert len(states._watches) == 0
