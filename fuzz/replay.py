"""`python -m fuzz.replay FILE...`: run targets on inputs once, without the fuzzer.

The target is the folder in ``corpus`` or ``found`` that a file lies in.
"""

import importlib
import sys
from pathlib import Path

from . import TARGETS


def replay(path: Path) -> None:
    """Run the target that a file belongs to; raises what it finds."""
    target = next((name for name in TARGETS if name in path.resolve().parts[-3:]), None)
    if target is None:
        raise SystemExit(f"{path} lies in no folder of a target; there is {', '.join(TARGETS)}.")
    importlib.import_module(f"fuzz.targets.{target}").check(path.read_bytes())


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        replay(Path(argument))
        print(f"{argument}: nothing is wrong")
