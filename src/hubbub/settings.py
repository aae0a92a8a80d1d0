"""Every setting, defined once: for code, for the environment and for the command line."""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from .errors import ConfigurationError

PREFIX = "HUBBUB_"


def _about(group: str, description: str, *, secret: bool = False) -> Meta:
    return Meta(description=description, extra={"group": group, "secret": secret})


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What can be set.

    A field ``max_message`` is ``Hubbub(Settings(max_message=...))`` in code, ``HUBBUB_MAX_MESSAGE`` in the
    environment and ``--max-message`` on the command line. The command line wins over the environment,
    the environment over code.
    """

    host: Annotated[str, _about("Server", "Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535), _about("Server", "Port to listen on; 0 takes a free one.")] = (
        8000
    )
    uds: Annotated[str | None, _about("Server", "Listen on this Unix domain socket instead.")] = None
    grpc_port: Annotated[
        Annotated[int, Meta(ge=0, le=65535)] | None,
        _about("Server", "Port to listen on for gRPC clients, at the same address; 0 takes a free one."),
    ] = None
    workers: Annotated[
        int,
        Meta(ge=1, le=256),
        _about("Server", "Number of processes; above 1 rooms need a broker that processes share."),
    ] = 1
    reload: Annotated[bool, _about("Server", "Restart when the code changes, for development.")] = False
    native: Annotated[
        bool,
        _about(
            "Server",
            "Take WebSockets over from ASGI for speed; without it, event by event.",
        ),
    ] = True
    backlog: Annotated[int, Meta(ge=1), _about("Server", "Connections that may wait to be accepted.")] = 2048
    root_path: Annotated[
        str, _about("Server", "Path under which a reverse proxy serves the application.")
    ] = ""
    proxy_headers: Annotated[
        bool, _about("Server", "Believe X-Forwarded-For and X-Forwarded-Proto from trusted proxies.")
    ] = True
    forwarded_allow_ips: Annotated[
        str, _about("Server", "Addresses of trusted proxies, separated by commas.")
    ] = "127.0.0.1"
    drain: Annotated[
        float, Meta(ge=0), _about("Server", "Seconds within which a stopping server lets its clients go.")
    ] = 10.0
    drain_at_signals: Annotated[
        bool,
        _about(
            "Server",
            "Under other servers than hubbub's, let the clients go at SIGINT and SIGTERM before the server's "
            "own handler of them is called; `hubbub serve` does so anyway.",
        ),
    ] = True

    ssl_certfile: Annotated[str | None, _about("TLS", "TLS certificate file (PEM).")] = None
    ssl_keyfile: Annotated[str | None, _about("TLS", "TLS private key file (PEM).")] = None
    ssl_keyfile_password: Annotated[
        str | None, _about("TLS", "Password of the private key.", secret=True)
    ] = None
    ssl_ca_certs: Annotated[
        str | None,
        _about("TLS", "Certificates that sign the clients' certificates, which are then required."),
    ] = None
    ssl_ciphers: Annotated[
        str, _about("TLS", "TLS ciphers, in OpenSSL's notation; empty for Python's choice.")
    ] = ""

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], _about("Logs", "Least level that is logged.")
    ] = "info"
    log_format: Annotated[Literal["text", "json"], _about("Logs", "Text for people, JSON for machines.")] = (
        "text"
    )

    broker: Annotated[
        str,
        _about(
            "Broker",
            "Where rooms live: memory:// is this process, sqlite:///rooms.db a file; redis://, amqp:// and "
            "nats:// are servers that many instances share.",
            secret=True,
        ),
    ] = "memory://"
    inbox_history: Annotated[
        int, Meta(ge=0), _about("Broker", "Messages kept for each user, for devices that come later.")
    ] = 100
    lease: Annotated[
        float, Meta(gt=0), _about("Broker", "Seconds after which the members of a crashed instance are gone.")
    ] = 10.0

    broker_timeout: Annotated[
        float, Meta(gt=0), _about("Broker", "Seconds within which the broker has to answer.")
    ] = 5.0

    deduplication_window: Annotated[
        float,
        Meta(gt=0),
        _about("Broker", "Seconds in which a request that a client sends again is carried out once."),
    ] = 300.0
    session_lifetime: Annotated[
        float,
        Meta(gt=0),
        _about("Broker", "Seconds for which a client that lost its line can take its session up again."),
    ] = 3600.0

    ping_interval: Annotated[
        float,
        Meta(gt=0),
        _about(
            "Line",
            "Seconds of silence before a ping; also the heartbeat that clients are promised.",
        ),
    ] = 20.0
    ping_timeout: Annotated[float, Meta(gt=0), _about("Line", "Seconds within which it has to answer.")] = (
        20.0
    )
    idle_timeout: Annotated[
        float,
        Meta(ge=0),
        _about("Line", "Seconds without a message after which a client is let go; 0 is never."),
    ] = 0.0
    handshake_timeout: Annotated[
        float, Meta(gt=0), _about("Line", "Seconds from accept until the client is connected and logged in.")
    ] = 10.0
    close_timeout: Annotated[
        float, Meta(gt=0), _about("Line", "Seconds to wait for the other side's part of a close.")
    ] = 10.0

    compression: Annotated[
        bool, _about("Line", "Compress what is large for clients that offer it (permessage-deflate).")
    ] = True
    compression_threshold: Annotated[
        int, Meta(ge=0), _about("Line", "Bytes from which on a message is worth compressing.")
    ] = 512

    allowed_origins: Annotated[
        str,
        _about(
            "Access",
            "Origins whose pages may connect, besides the server's own, separated by commas; * is any.",
        ),
    ] = ""
    allowed_hosts: Annotated[
        str,
        _about(
            "Access",
            "Names that a Host header may have, separated by commas; *.example.com is any below, * any.",
        ),
    ] = "*"

    api_keys: Annotated[
        str,
        _about(
            "Access",
            "Keys with which programs may POST to /api/publish, separated by commas; without one it is not "
            "there.",
            secret=True,
        ),
    ] = ""

    max_connections: Annotated[
        int, Meta(ge=1), _about("Limits", "Connections in all, as far as there are file descriptors.")
    ] = 50_000
    max_connections_per_address: Annotated[
        int, Meta(ge=1), _about("Limits", "Connections from one address; of IPv6, from one /64 network.")
    ] = 1_000
    max_pending: Annotated[
        int,
        Meta(ge=1),
        _about("Limits", "Connections that have asked for nothing yet, and as many that are logging in."),
    ] = 1_000
    max_headers: Annotated[int, Meta(ge=1), _about("Limits", "Headers of a request.")] = 100
    max_header_bytes: Annotated[
        int, Meta(ge=1024), _about("Limits", "Bytes of a request's headers together.")
    ] = 32_768
    max_target: Annotated[
        int, Meta(ge=256), _about("Limits", "Bytes of a request's target: path and query.")
    ] = 8_192
    max_message: Annotated[
        int, Meta(ge=125), _about("Limits", "Largest message from a client, in bytes.")
    ] = 1_048_576
    max_message_before_login: Annotated[
        int, Meta(ge=125), _about("Limits", "The same until the client is logged in.")
    ] = 65_536
    max_fragments: Annotated[
        int, Meta(ge=1), _about("Limits", "Fragments that a message from a client may come in.")
    ] = 4_096
    max_depth: Annotated[
        int, Meta(ge=4), _about("Limits", "Levels of nesting that a message from a client may have.")
    ] = 100
    max_message_rate: Annotated[
        float,
        Meta(gt=0),
        _about(
            "Limits",
            "Messages and control frames a second that a client may send in the long run; past it 4529.",
        ),
    ] = 500.0
    max_message_burst: Annotated[
        int,
        Meta(ge=1),
        _about(
            "Limits",
            "Messages and control frames that it may send at once.",
        ),
    ] = 2_000
    max_outbox: Annotated[
        int,
        Meta(ge=1024),
        _about(
            "Limits",
            "Bytes that may wait for a slow reader; past it happens what its rooms say, else a close: 4513.",
        ),
    ] = 1_048_576
    max_inbox: Annotated[
        int,
        Meta(ge=1),
        _about(
            "Limits",
            "Messages of a connection that may wait for its handler; past it the socket is not read.",
        ),
    ] = 64
    max_inbox_bytes: Annotated[
        int, Meta(ge=1), _about("Limits", "Bytes of those messages together; past it likewise.")
    ] = 1_048_576
    max_rooms: Annotated[int, Meta(ge=1), _about("Limits", "Rooms that a connection may be in.")] = 1000
    max_batch: Annotated[int, Meta(ge=1), _about("Limits", "Messages in one POST to /api/publish/batch.")] = (
        1_000
    )
    max_batch_bytes: Annotated[
        int, Meta(ge=125), _about("Limits", "Bytes of it; of each message in it, max_message.")
    ] = 4_194_304

    def __repr__(self) -> str:
        shown = (
            f"{setting.name}={'***' if setting.secret and value is not None else repr(value)}"
            for setting in describe()
            if (value := getattr(self, setting.name)) != setting.default
        )
        return f"Settings({', '.join(shown)})"

    @classmethod
    def load(cls, code: "Settings | None" = None, environment: Mapping[str, str] | None = None) -> "Settings":
        """Return the settings given in code, overridden by those in the environment, all checked.

        Raises :exc:`ConfigurationError` with the setting's name for a value that can't be.
        """
        environment = os.environ if environment is None else environment
        values: dict[str, object] = {}
        for setting in describe():
            text = environment.get(setting.variable)
            if text is not None:
                values[setting.name] = setting.convert(text, source=setting.variable)
            elif code is not None:
                values[setting.name] = setting.convert(getattr(code, setting.name), source=setting.name)
        return cls(**values)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Setting:
    """One setting, as the command line and the documentation show it."""

    name: str
    annotation: object
    default: object
    description: str
    group: str
    secret: bool

    @property
    def variable(self) -> str:
        """Name of the environment variable."""
        return PREFIX + self.name.upper()

    @property
    def option(self) -> str:
        """Name on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def kind(self) -> type | tuple[str, ...]:
        """Python type of the value, or the choices there are."""
        plain = _plain(self.annotation)
        if type(None) in get_args(plain):
            plain = _plain(next(part for part in get_args(plain) if part is not type(None)))
        if get_origin(plain) is Literal:
            return tuple(str(choice) for choice in get_args(plain))
        for kind in (bool, int, float):
            if plain is kind:
                return kind
        return str

    def convert(self, value: object, *, source: str) -> object:
        """Return `value` as this setting's type; :exc:`ConfigurationError` names `source` if it can't be."""
        try:
            converted = msgspec.convert(value, self.annotation, strict=not isinstance(value, str))
            if isinstance(converted, float) and not math.isfinite(converted):
                raise msgspec.ValidationError("Expected a finite number")
            return converted
        except msgspec.ValidationError as problem:
            shown = "***" if self.secret else repr(value)
            raise ConfigurationError(
                f"{source} is {shown}, which can't be: {problem}. {self.description}"
            ) from None


def _plain(annotation: object) -> object:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def describe() -> Iterator[Setting]:
    """Yield every setting in the order of its definition."""
    annotations = get_type_hints(Settings, include_extras=True)
    for field in msgspec.structs.fields(Settings):
        annotation = annotations[field.name]
        meta = next(extra for extra in get_args(annotation) if isinstance(extra, Meta) and extra.extra)
        about = meta.extra or {}
        yield Setting(
            field.name,
            annotation,
            field.default,
            meta.description or "",
            str(about["group"]),
            bool(about["secret"]),
        )
