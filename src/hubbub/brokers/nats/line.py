"""The line to a NATS server: one nats-py client for each connection, made anew whenever it is lost.

nats-py's own reconnecting keeps what was published meanwhile and sends it later, when nobody knows any more
whether it still should be. So here a client lives as long as its connection. All that leans on nats-py's
inner parts is in this module and in :mod:`.client`.
"""

import asyncio
import secrets
import ssl
from collections import deque
from collections.abc import Awaitable, Callable

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error, NoServersError

from ...errors import ConfigurationError, HubbubError, Unavailable
from ...observe.log import fields, logger
from ..outage import Outage
from .client import Handler, make_client
from .options import Options

WAITS = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Seconds between attempts to connect; the last one stays. Instances differ by up to a half."""
LEAST_PAYLOAD = 65_536
"""Bytes that a message may have at the least."""
MOST_UNSENT = 64 * 2**20
"""Bytes that may wait to be sent; past that, what is sent without an answer is refused."""
OVERHEAD = 16
"""Bytes of a message that are none of its headers, and not its payload."""
CANCELS_AGAIN = 0.1
"""Seconds after which what was cancelled and goes on is cancelled again."""
CLOSES_WITHIN = 1.0
"""Seconds that a connection may take to close in good order."""


class LineLost(Unavailable):
    """The connection was lost before an answer came: what was asked may have been done."""


class NoAnswer(Unavailable):
    """The server did not answer in time: what was asked may have been done."""


class Refused(HubbubError):
    """The server answers, and does not let us in or can't be used."""


class Line:
    """The connection, whichever it is now.

    `ready` is awaited on each new connection before :attr:`up` is set; when it raises, the connection is
    dropped and tried again.
    """

    def __init__(
        self,
        options: Options,
        name: str,
        timeout: float,
        *,
        ready: Callable[[], Awaitable[None]],
    ) -> None:
        self.up = False
        """Whether there is a connection, and `ready` is through."""
        self.connections = 0
        """How many there were: tells one from another."""
        self.max_payload = 2**20
        self.clustered = False
        self.has_jetstream = False
        self.version = (0, 0)
        self._options = options
        self._servers = deque(options.servers)
        self._shown = ",".join(options.servers)
        self._name = name
        self._timeout = timeout
        self._ready = ready
        self._client: Client | None = None
        self._gone = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._handlers: dict[int, tuple[bytes, Handler]] = {}
        self._last_sid = 0
        self._last_request = 0
        self._inbox = f"_INBOX.{secrets.token_hex(11)}."
        self._requests: dict[int, tuple[float, int, asyncio.Future[Msg]]] = {}
        self._received = 0
        self._out: list[bytes] = []
        self._flushing = False
        self._sweep: asyncio.TimerHandle | None = None
        self._outage = Outage()
        self._denied: str | None = None

    # From start to stop

    async def open(self) -> None:
        """Connect; :exc:`ConfigurationError` if the server refuses, nothing if it is away: it is tried on."""
        if self._keeper is not None:
            return
        self.subscribe(f"{self._inbox}*", self._answered)
        problem = await self._attempt()
        if isinstance(problem, Refused | ConfigurationError):
            await self.close()
            raise ConfigurationError(str(problem)) from None
        self._keeper = asyncio.create_task(self._keep(), name="hubbub: the line to NATS")

    async def close(self) -> None:
        """Let go of the connection; requests without an answer fail."""
        keeper, self._keeper = self._keeper, None
        self.up = False
        while keeper is not None and not keeper.done():
            # Again and again: nats-py, and asyncio's wait_for before Python 3.12, may swallow it.
            keeper.cancel()
            await asyncio.wait([keeper], timeout=CANCELS_AGAIN)
        await self._drop()
        self._handlers.clear()
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    async def _keep(self) -> None:
        """Connect again whenever the connection is lost."""
        tries = 0
        while True:
            if self._client is not None:
                tries = 0
                await self._gone.wait()
                await self._drop()
            else:
                wait = WAITS[min(tries, len(WAITS) - 1)]
                tries += 1
                await asyncio.sleep(wait * (1 + secrets.randbelow(50) / 100))
            try:
                await self._attempt()
            except Exception:
                # Whatever it is, there has to be somebody who tries again.
                logger.exception("error", extra=fields(during="connect", broker="nats"))

    async def _attempt(self) -> Exception | None:
        """Try to connect once; return what was wrong."""
        problem: Exception
        try:
            async with asyncio.timeout(self._timeout):
                await self._connect()
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise asyncio.CancelledError
            await self._ready()
        except (OSError, Error, TimeoutError, Unavailable, Refused, ConfigurationError) as raised:
            problem = _told(raised)
            if self._denied is not None:
                problem = Refused(
                    "The account at NATS lacks a permission that hubbub needs: "
                    f"{self._denied.removeprefix('nats: ')[:200]}."
                )
        except BaseException:
            await self._drop()
            raise
        else:
            if self._client is not None and not self._gone.is_set():
                self.up = True
                self._outage.ends(self._shown)
                return None
            problem = LineLost("The connection to NATS was lost.")
        await self._drop()
        self._servers.rotate(-1)
        self._tell(str(problem), refused=isinstance(problem, Refused | ConfigurationError))
        return problem

    def _tell(self, what: str, *, refused: bool = False) -> None:
        self._outage.begins(self._shown, what, refused=refused)

    async def _connect(self) -> None:
        client = make_client(self._handle)
        problems: list[Exception] = []

        async def note(problem: Exception) -> None:
            problems.append(problem)
            del problems[:-1]
            if "permissions violation" in str(problem).lower():
                self._denied = str(problem)

        gone = asyncio.Event()

        async def closed() -> None:
            if not gone.is_set():
                gone.set()
                self._fail(client)

        options = self._options
        server = self._servers[0]
        self._client, self._gone, self._denied = client, gone, None
        ping = min(max(self._timeout / 2, 0.5), 20.0)
        try:
            await client.connect(
                server,
                name=self._name,
                error_cb=note,
                closed_cb=closed,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=self._timeout,  # type: ignore[arg-type]
                ping_interval=ping,  # type: ignore[arg-type]
                max_outstanding_pings=2,
                user=options.user,
                password=options.password,
                token=options.token,
                tls=ssl.create_default_context() if server.startswith("tls:") else None,
            )
        except NoServersError:
            raise problems[-1] if problems else OSError("it can't be reached") from None
        if not client.is_connected:
            raise OSError("the server closed the connection")
        info = client._server_info
        if not info.get("headers"):
            raise Refused("The NATS server is too old, or does not allow headers. Use version 2.9 or newer.")
        self.max_payload = client.max_payload
        if client.max_payload < LEAST_PAYLOAD:
            raise Refused(f"The NATS server takes small messages only. Set max_payload to {LEAST_PAYLOAD}.")
        self.clustered = bool(info.get("cluster"))
        self.has_jetstream = bool(info.get("jetstream"))
        numbers = str(info.get("version", "")).split(".")
        self.version = (int(numbers[0]), int(numbers[1])) if "".join(numbers[:2]).isdecimal() else (0, 0)
        for url in client.discovered_servers:
            place = f"{server.partition(':')[0]}://{url.hostname}:{url.port}"
            if place not in self._servers:
                self._servers.append(place)
        self.connections += 1
        self._out.clear()
        self._write(
            b"".join(b"SUB %s %d\r\n" % (subject, sid) for sid, (subject, _) in self._handlers.items())
        )

    def drop(self, why: str) -> None:
        """Give the connection up; a new one is made."""
        if self._client is not None and not self._gone.is_set():
            self._tell(why)
            self._gone.set()
            self._fail(self._client)

    def _fail(self, client: Client) -> None:
        """Take note that a connection is gone."""
        if client is not self._client:
            return
        was_up, self.up = self.up, False
        requests, self._requests = self._requests, {}
        for _, _, future in requests.values():
            if not future.done():
                future.set_exception(LineLost("The connection to NATS was lost."))
        if was_up:
            self._tell("the connection was lost")

    async def _drop(self) -> None:
        client = self._client
        if client is None:
            return
        self._gone.set()
        self._fail(client)
        self._client = None
        transport = client._transport
        try:
            async with asyncio.timeout(CLOSES_WITHIN):
                await client.close()
        except (TimeoutError, OSError, Error):
            logger.debug("broker", extra=fields(broker="nats", during="close"))
        finally:
            writer = getattr(transport, "_io_writer", None)
            if writer is not None:
                writer.transport.abort()

    # What is sent

    def request(self, subject: str, payload: bytes, headers: bytes = b"") -> asyncio.Future[Msg]:
        """Send, and return a future of the answer.

        It raises :exc:`LineLost` or :exc:`NoAnswer`. `headers` are whole lines.
        """
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        client = self._client
        if client is None or self._gone.is_set() or not client.is_connected:
            future.set_exception(LineLost("NATS can't be reached."))
            return future
        if len(payload) + len(headers) + OVERHEAD > self.max_payload:
            # The server would end the connection.
            future.set_exception(Unavailable(f"NATS takes no more than {self.max_payload} bytes."))
            return future
        self._last_request = number = self._last_request + 1
        loop = asyncio.get_running_loop()
        self._requests[number] = (loop.time() + self._timeout, self._received, future)
        if self._sweep is None:
            self._sweep = loop.call_later(self._timeout / 4, self._look_for_late_ones)
        self._send(subject, f"{self._inbox}{number}", payload, headers)
        return future

    def send(self, subject: str, payload: bytes) -> None:
        """Send without an answer."""
        transport = self._client._transport if self._client is not None else None
        writer = getattr(transport, "_io_writer", None)
        if writer is not None and writer.transport.get_write_buffer_size() > MOST_UNSENT:
            raise Unavailable("Too much waits to be sent to NATS.")
        if len(payload) > self.max_payload:
            raise Unavailable(f"NATS takes no more than {self.max_payload} bytes.")
        self._send(subject, "", payload, b"")

    def subscribe(self, subject: str, handler: Handler) -> int:
        """Have what arrives on a subject handled, on this connection and on all that follow."""
        self._last_sid = sid = self._last_sid + 1
        name = subject.encode()
        self._handlers[sid] = (name, handler)
        if self._client is not None:
            self._put(b"SUB %s %d\r\n" % (name, sid))
        return sid

    def unsubscribe(self, sid: int) -> None:
        """End a subscription."""
        if self._handlers.pop(sid, None) is not None and self._client is not None:
            self._put(b"UNSUB %d\r\n" % sid)

    def _send(self, subject: str, reply: str, payload: bytes, headers: bytes) -> None:
        to = f"{subject} {reply}" if reply else subject
        if headers:
            head = b"NATS/1.0\r\n" + headers + b"\r\n"
            command = f"HPUB {to} {len(head)} {len(head) + len(payload)}\r\n".encode()
            self._put(b"".join((command, head, payload, b"\r\n")))
        else:
            self._put(b"".join((f"PUB {to} {len(payload)}\r\n".encode(), payload, b"\r\n")))

    def _put(self, command: bytes) -> None:
        self._out.append(command)
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Write all that one turn of the event loop brought together."""
        self._flushing = False
        commands, self._out = self._out, []
        self._write(b"".join(commands))

    def _write(self, data: bytes) -> None:
        client = self._client
        if data and client is not None and client.is_connected and client._transport is not None:
            client._transport.write(data)

    # What arrives

    def _handle(self, message: Msg) -> None:
        self._received += 1
        found = self._handlers.get(message._sid or 0)
        if found is None:
            return
        try:
            found[1](message)
        except Exception:
            # nats-py would stop reading for good.
            logger.exception("error", extra=fields(during="delivery", broker="nats"))

    def _answered(self, message: Msg) -> None:
        number = message.subject[len(self._inbox) :]
        asked = self._requests.pop(int(number), None) if number.isdecimal() else None
        if asked is not None and not asked[2].done():
            asked[2].set_result(message)

    def _look_for_late_ones(self) -> None:
        """Fail requests that took too long, and give a connection up on which nothing came meanwhile."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        silent = False
        # The oldest are the first.
        while self._requests:
            number, (until, received, future) = next(iter(self._requests.items()))
            if until > now and not future.done():
                break
            del self._requests[number]
            if not future.done():
                future.set_exception(NoAnswer("NATS did not answer in time."))
                silent = silent or received == self._received
        self._sweep = None
        if self._requests:
            self._sweep = loop.call_later(self._timeout / 4, self._look_for_late_ones)
        if silent:
            self.drop(self._denied or "it did not answer in time")


def _told(problem: Exception) -> Exception:
    """Return what is wrong, in words that hold no password."""
    text = str(problem).lower()
    if "authorization violation" in text or "authentication" in text:
        return Refused(
            "NATS refuses the user and password, or the token, that the setting broker has. Correct them."
        )
    if isinstance(problem, ssl.SSLCertVerificationError):
        return Refused(
            "The certificate of the NATS server is not trusted. Set SSL_CERT_FILE to its authority."
        )
    if isinstance(problem, TimeoutError):
        return NoAnswer("NATS did not answer in time.")
    if isinstance(problem, OSError):
        return OSError(f"NATS can't be reached ({problem.strerror or type(problem).__name__})")
    return problem
