"""For tests: of applications on hubbub, and of hubbub itself."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .names import *  # noqa: F403
else:
    # Imported when it is asked for, as in `hubbub` itself: the pytest plugin is in this package.

    def __getattr__(name):
        names = import_module(".names", __name__)
        if name == "__all__" or name in names.__all__:
            return globals().setdefault(name, getattr(names, name))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
