"""An Engine.IO application for the tests: it echoes, and tells what happened."""

from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import Receive, Scope, Send

from hubbub import Hubbub, Settings
from hubbub.brokers.base import Broker
from hubbub.transports.engineio import EngineIO, EngineSocket, Reason


@dataclass
class Echo:
    """Who listens on one session: it answers each message with the same."""

    socket: EngineSocket
    echoes: bool = True
    messages: list[str | bytes] = field(default_factory=list)
    paused: list[bool] = field(default_factory=list)
    ends: list[Reason] = field(default_factory=list)
    control_packets: int = 0
    on_message: Callable[[str | bytes], None] | None = None

    def received(self, message: str | bytes) -> bool:
        self.messages.append(message)
        if self.on_message is not None:
            self.on_message(message)
        if self.echoes:
            self.socket.send(message)
        return self.socket.reading

    def heard_from(self, control_packets: int) -> None:
        self.control_packets += control_packets

    def pause_writing(self) -> None:
        self.paused.append(True)

    def resume_writing(self) -> None:
        self.paused.append(False)

    def ended(self, reason: Reason) -> None:
        self.ends.append(reason)

    def shut_down(self) -> None:
        self.socket.close()


class Engine:
    """The application, and its sessions in the order in which they were opened."""

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        echoes: bool = True,
        keeps: bool = True,
        broker: Broker | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.echoes = echoes
        self.keeps = keeps
        self.opened: list[Echo] = []
        hub = Hubbub(self.settings)
        self.hub, entrance = hub._hub, hub._entrance
        self._broker = broker
        self.engine = EngineIO(
            self.open,
            self.settings,
            refusal=lambda scope: entrance.refusal(scope, line=True),
            websocket=entrance.websocket,
            cross_origin=entrance.access.answer_headers,
            lines=self.hub.lines,
        )

    def open(self, socket: EngineSocket) -> Echo:
        socket.max_message = self.settings.max_message
        if self.keeps:
            socket.keep()
        echo = Echo(socket, self.echoes)
        self.opened.append(echo)
        return echo

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            if self._broker is not None:
                await self.hub.start(self._broker)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self.engine.stop()
            if self._broker is not None:
                await self.hub.stop()
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await self.engine(scope, receive, send)
