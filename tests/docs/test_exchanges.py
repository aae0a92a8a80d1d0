"""Every exchange in the documentation is replayed against a server of the application its page shows."""

from collections.abc import Callable

import pytest
from starlette.types import ASGIApp

from conftest import Serve
from docs.exchange import Exchange, is_all_envelopes
from docs.pages import NAMES, Block, blocks

WIRE = [block for page in NAMES for block in blocks(page) if block.language == "wire"]

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("block", WIRE, ids=lambda block: block.place)
async def test_an_exchange_happens_as_its_page_says(
    block: Block, app_for: Callable[[Block], ASGIApp], start: Serve
) -> None:
    app = app_for(block)
    await Exchange(lambda: start(app), "hubbub.v1.json").replay(block.text)


@pytest.mark.parametrize(
    "block", [block for block in WIRE if is_all_envelopes(block.text)], ids=lambda block: block.place
)
async def test_an_exchange_happens_over_messagepack_too(
    block: Block, app_for: Callable[[Block], ASGIApp], serve: Serve
) -> None:
    app = app_for(block)
    await Exchange(lambda: serve(app), "hubbub.v1.msgpack").replay(block.text)


JOIN = """\
→ {"type": "$join", "id": 1, "room": "chat/lobby"}
← {"type": "$ack", "id": 1, "room": "chat/lobby", "data": {"epoch": "e", "offset": 0}}
"""


@pytest.mark.parametrize(
    "untrue",
    [
        JOIN.replace('"offset": 0', '"offset": 1'),
        JOIN.replace(', "data": {"epoch": "e", "offset": 0}', ""),
        JOIN.replace('"e"', "7"),
        JOIN.replace("$ack", "$nack"),
        JOIN + '→ {"type": "$ping"}\n',
        JOIN + JOIN.replace('"e"', '"another"'),
        JOIN + "and so on\n",
    ],
)
async def test_what_does_not_happen_is_found_out(
    untrue: str, app_for: Callable[[Block], ASGIApp], serve: Serve
) -> None:
    served = serve(app_for(next(block for block in WIRE if block.page == "docs/protocol.md")))
    await Exchange(lambda: served, "hubbub.v1.json").replay(JOIN)
    with pytest.raises((AssertionError, TimeoutError, pytest.fail.Exception)):
        await Exchange(lambda: served, "hubbub.v1.json").replay(untrue)
