"""Outages: whether the server behind a broker can be used, told in the log once for each change."""

from ..observe.log import fields, logger


class Outage:
    """What the log was told of a server. What it is called there has no password in it."""

    __slots__ = ("_because",)

    def __init__(self) -> None:
        self._because: str | None = None

    def begins(self, server: str, because: str, *, refused: bool = False) -> None:
        """Tell that it can't be used, unless that was told.

        It is told again, with another reason, if it has `refused`: then somebody has to do something.
        """
        if self._because is None or (refused and because != self._because):
            self._because = because
            logger.error("broker unavailable", extra=fields(server=server, because=because))

    def ends(self, server: str) -> None:
        """Tell that it can be used again, if it was told that it can't."""
        if self._because is not None:
            self._because = None
            logger.info("broker available", extra=fields(server=server))
