"""Tasks that belong to a block of code."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager

from ..errors import HubbubError


@asynccontextmanager
async def background(*coroutines: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """Run coroutines beside the block, and cancel them at its end; what one of them raises ends the block."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(coroutine) for coroutine in coroutines]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


@contextmanager
def first_of_many() -> Iterator[None]:
    """Raise one of hubbub's exceptions by itself, where tasks have put it into groups."""
    try:
        yield
    except BaseExceptionGroup as group:
        expected, others = group.split(HubbubError)
        problem: BaseException | None = expected
        while isinstance(problem, BaseExceptionGroup):
            problem = problem.exceptions[0]
        if others is not None or problem is None:
            raise
        raise problem from None
