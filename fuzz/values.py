"""Changes to JSON-like values, so that the fuzzer gets past what makes a message well-formed."""

import random
from collections.abc import Callable, Iterator
from typing import Any

WORDS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**53 + 1, -(2**63), 2**64 - 1, 2**64, 10**30, 0.0, -0.5, 1e308,
    5e-324, "", "a", "é", "😀", "\0", "x" * 130, "y" * 600, "a`b", "' - at `$.x`", "1e5", "12.50",
    "2026-01-02T03:04:05Z", "123e4567-e89b-12d3-a456-426614174000", "aGk=", "$.a", [], {}, [[]], {"": {}},
    "red", "Circle", "Box", "card", "cash", "$join", "$auth", "draw", "form", "tree", "order",
)  # fmt: skip

NAMES = (
    "type", "data", "room", "id", "since", "epoch", "offset", "limit", "token", "shape", "center", "radius",
    "corners", "x", "y", "name", "tags", "kind", "colour", "when", "key", "amount", "blob", "names", "counts",
    "by_colour", "by_number", "children", "value", "lines", "article", "count", "payment", "number", "notes",
    "total", "", "z" * 300, "a`b", "a.b",
)  # fmt: skip

Put = Callable[[Any], None]


def changed(value: Any, chance: random.Random, most: int = 4) -> Any:
    """Return `value` with up to `most` places in it changed. The value itself is used up."""
    whole = [value]
    for _ in range(chance.randint(1, most)):
        places = list(_places(whole))
        found, put = chance.choice(places)
        match chance.randrange(6):
            case 0 | 1:
                put(_copied(chance.choice(WORDS)))
            case 2:
                put(_copied(chance.choice(places)[0]))
            case 3 if isinstance(found, dict):
                found[chance.choice(NAMES)] = _copied(chance.choice(places)[0])
            case 4 if isinstance(found, dict) and found:
                name = chance.choice(list(found))
                kept = found.pop(name)
                if chance.randrange(2):
                    found[chance.choice(NAMES)] = kept
            case 3 | 4 if isinstance(found, list):
                found[:] = found + _copied(found) if len(found) < 9 and chance.randrange(2) else found[::2]
            case 5 if isinstance(found, list):
                found.insert(0, _copied(chance.choice(WORDS)))
            case 5:
                put([found] if isinstance(found, dict) else [found] * chance.choice((1, 2, 30)))
            case _:
                put({chance.choice(NAMES): found})
    return whole[0]


def _places(container: Any) -> Iterator[tuple[Any, Put]]:
    """Yield every value inside, with what puts another into its place."""
    waiting = [container]
    while waiting:
        inside = waiting.pop()
        keys = list(inside) if isinstance(inside, dict) else range(len(inside))
        for key in keys:
            found = inside[key]

            def put(new: Any, inside: Any = inside, key: Any = key) -> None:
                inside[key] = new

            yield found, put
            if isinstance(found, dict | list):
                waiting.append(found)


def _copied(value: Any) -> Any:
    """Copy, so that no value comes to hold itself."""
    if isinstance(value, dict):
        return {name: _copied(inside) for name, inside in value.items()}
    return [_copied(inside) for inside in value] if isinstance(value, list) else value
