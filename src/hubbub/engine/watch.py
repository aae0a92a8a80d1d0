"""What the sweep remembers of a connection between two looks."""


class Watch:
    """Moments in seconds of the event loop's time, 0 for not yet, and the counts as they were then."""

    __slots__ = (
        "closing_since", "heard", "messages_in", "opened", "pinged", "ready", "received", "refilled", "signs",
        "spoke", "written",
    )  # fmt: skip

    def __init__(self) -> None:
        self.ready = False
        """Whether the client is connected and logged in."""
        self.opened = 0.0
        """Since when the client has time to connect and log in."""
        self.heard = self.received = self.spoke = self.pinged = self.closing_since = 0.0
        self.refilled = 0.0
        """Up to when the client has been given its allowance of messages."""
        self.signs = self.messages_in = self.written = 0

    def begin(self, now: float) -> None:
        """Start the heartbeats: the client is connected and logged in."""
        self.ready = True
        self.opened = 0.0
        self.heard = self.received = self.spoke = now
