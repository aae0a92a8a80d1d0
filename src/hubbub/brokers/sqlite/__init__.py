"""The broker on one file: rooms of one process, which outlive it.

Two threads work for the event loop: `writer.py` commits what is published, all that waits in one
transaction, and `reader.py` reads history. `file.py` has the file itself, `worker.py` the threads, and
`broker.py` the loop's side.
"""

from .broker import SqliteBroker, SqliteStore

__all__ = ["SqliteBroker", "SqliteStore"]
