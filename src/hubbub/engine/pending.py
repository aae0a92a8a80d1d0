"""Who is connected and not logged in yet: so many at once, since it costs an attacker nothing."""

from .connection import Connection


class Pending:
    """Connections between the opening handshake and the end of the login, `limit` at most."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._connections: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._connections)

    def admit(self, connection: Connection) -> bool:
        """Count a connection; false if there are too many.

        Those that have logged in are found out only when the limit seems to be reached, so that a login
        costs nothing here.
        """
        if len(self._connections) >= self._limit:
            for other in [other for other in self._connections if other.watch.ready]:
                del self._connections[other]
            if len(self._connections) >= self._limit:
                return False
        self._connections[connection] = None
        return True

    def forget(self, connection: Connection) -> None:
        """Let a connection be that has ended."""
        self._connections.pop(connection, None)
