"""`python -m fuzz.guided TARGET [libFuzzer's options and folders]`: fuzz one target in this process.

libFuzzer (in atheris) makes up inputs, and keeps those that reach what none did before. Only what judges a
stranger's bytes is instrumented: that is hubbub and the Python libraries it leaves them to.
"""

import importlib
import logging
import random
import shlex
import sys
import zlib
from collections.abc import Callable

import atheris

from . import TARGETS

INSTRUMENTED = ["hubbub", "uvicorn.protocols", "websockets"]


def main() -> None:
    target = sys.argv[1]
    if target not in TARGETS:
        raise SystemExit(f"There is no target {target!r}; there is {', '.join(TARGETS)}.")
    with atheris.instrument_imports(include=INSTRUMENTED):
        module = importlib.import_module(f"fuzz.targets.{target}")
    # What is logged is looked at by the targets; a target that has much to log would be slow to print it.
    logging.getLogger().addHandler(logging.NullHandler())
    see = _places()

    def check(data: bytes) -> None:
        for sign in module.check(data):
            see(sign)

    options = {"custom_mutator": _mutator(module.mutate)} if hasattr(module, "mutate") else {}
    # To merge, libFuzzer starts itself again by this command.
    itself = shlex.join([sys.executable, "-m", "fuzz.guided", target])
    atheris.Setup([itself, *sys.argv[2:]], check, **options)
    atheris.Fuzz()


def _mutator(mutate: Callable[[bytes, random.Random], bytes | None]) -> Callable[[bytes, int, int], bytes]:
    """Change what a message says as often as the bytes that say it."""

    def change(data: bytes, most: int, seed: int) -> bytes:
        chance = random.Random(seed)
        found = mutate(data, chance) if data and chance.randrange(2) else None
        if found is None or len(found) > most:
            return bytes(atheris.Mutate(data, most))
        return found

    return change


PLACES = 1024


def _places() -> Callable[[str], None]:
    """Return a function that shows libFuzzer what a target saw as if it were a place in the code.

    msgspec, httptools and zlib are written in C: what happens in them covers no line of Python. But what
    they answer can be told apart.
    """
    places: list[Callable[[], None]] = []
    for _ in range(PLACES):
        names: dict[str, Callable[[], None]] = {}
        exec("def place(): pass", names)
        places.append(atheris.instrument_func(names["place"]))

    def see(sign: str) -> None:
        places[zlib.crc32(sign.encode()) % PLACES]()

    return see


if __name__ == "__main__":
    main()
