"""The request that opened a connection."""

from urllib.parse import quote

from starlette.requests import HTTPConnection


class Request(HTTPConnection):
    """The opening handshake's request, as Starlette shows it: headers, query parameters, cookies, session."""

    @property
    def path(self) -> str:
        """The request's target: path and query as they were sent, as in the `websockets` library."""
        sent: bytes = self.scope.get("raw_path") or quote(self.scope["path"]).encode()
        query: bytes = self.scope["query_string"]
        return (sent + b"?" + query if query else sent).decode("latin-1")
