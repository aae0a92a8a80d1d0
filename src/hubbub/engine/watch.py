"""What the sweep remembers of a connection between two looks."""


class Watch:
    """Moments in seconds of the event loop's time, 0 for not yet, and the counts as they were then."""

    __slots__ = (
        "closing_since", "heard", "messages_in", "opened", "pinged", "ready", "received", "signs", "spoke",
        "written",
    )  # fmt: skip

    def __init__(self) -> None:
        self.ready = False
        """Whether the client is connected and logged in."""
        self.opened = self.heard = self.received = self.spoke = self.pinged = self.closing_since = 0.0
        self.signs = self.messages_in = self.written = 0

    def begin(self, now: float) -> None:
        """Start the heartbeats: the client is connected and logged in."""
        self.ready = True
        self.heard = self.received = self.spoke = now
