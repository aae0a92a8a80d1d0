"""The client for scripts and threads: the same names as :mod:`hubbub.client`, in methods that block.

>>> with hubbub.sync.connect("ws://localhost:8000", messages=[Say]) as client:
...     room = client.join("chat/lobby")
...     room.send(Say(text="hi"))
...     for event in room: ...

>>> publisher = hubbub.sync.Publisher("redis://localhost", rooms=hub)
>>> publisher.send("chat/lobby", Say(text="hi"))

Each of them runs the asynchronous one on an event loop in a thread of its own. So it answers heartbeats and
comes back while the program does something else. Its methods may be called from any thread. A method that
has not done its work after `timeout` seconds raises :exc:`TimeoutError`; with None it waits for ever.
"""

from .client import Client, Options, Room, connect
from .loop import TIMEOUT
from .publisher import Publisher

__all__ = ["TIMEOUT", "Client", "Options", "Publisher", "Room", "connect"]
