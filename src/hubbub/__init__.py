"""hubbub: rooms, typed messages and delivery that survives, over WebSockets.

>>> from hubbub import Connection, Hubbub, Message, Room
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.5.0"

if TYPE_CHECKING:
    from .names import *  # noqa: F403
else:
    # Imported when it is asked for: every run of pytest imports this package, for the plugin in it.

    def __getattr__(name):
        names = import_module(".names", __name__)
        if name == "__all__" or name in names.__all__:
            return globals().setdefault(name, getattr(names, name))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *import_module(".names", __name__).__all__})
