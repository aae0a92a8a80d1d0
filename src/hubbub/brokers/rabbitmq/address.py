"""What the URL of a RabbitMQ says."""

from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from ...errors import ConfigurationError

PREFIX = "hubbub"
LOG_BYTES = 1024 * 2**20
LEAST_LOG_BYTES = 2**20

_TLS = ("cafile", "capath", "cadata", "certfile", "keyfile", "no_verify_ssl")
"""What aiormq reads from the query: files of certificates and keys."""


@dataclass(frozen=True)
class Address:
    """Where the server is, and what of it is used."""

    url: str
    """For the client library; it may hold a password."""
    shown: str
    """For logs and errors."""
    prefix: str = PREFIX
    """Begins the names of all queues and exchanges; those with another one see nothing of each other."""
    log_bytes: int = LOG_BYTES
    """Bytes of the log that the server keeps, about."""

    @property
    def log(self) -> str:
        """Name of the stream."""
        return f"{self.prefix}.log"

    @property
    def pointer(self) -> str:
        """Name of the queue that holds where the newest snapshot is."""
        return f"{self.prefix}.snapshot"

    @property
    def questions(self) -> str:
        """Name of the queue for those who have an instance publish."""
        return f"{self.prefix}.questions"

    @property
    def everyone(self) -> str:
        """Name of the exchange that reaches every instance."""
        return f"{self.prefix}.everyone"

    @property
    def instances(self) -> str:
        """Name of the exchange that reaches the one instance whose name is the routing key."""
        return f"{self.prefix}.instances"


def parse(broker: str, *, heartbeat: int, name: str) -> Address:
    """Return what a URL says; :exc:`ConfigurationError` if it can't be."""
    try:
        url = urlsplit(broker)
        host, port = url.hostname, url.port
    except ValueError:
        # What it says may hold a password.
        host, port, url = None, None, urlsplit("")
    if not host or url.fragment:
        raise ConfigurationError(
            "A RabbitMQ is named as amqp://user:password@host:5672/virtual-host?prefix=chat."
        )
    prefix, log_bytes, passed = PREFIX, LOG_BYTES, {}
    for key, value in parse_qsl(url.query, keep_blank_values=True):
        if key == "prefix":
            prefix = value
            if not value or len(value.encode()) > 100 or value.startswith("amq."):
                raise ConfigurationError("The prefix of an amqp:// URL is 1 to 100 bytes long, and not amq.")
        elif key == "log_bytes":
            if not value.isascii() or not value.isdigit() or int(value) < LEAST_LOG_BYTES:
                raise ConfigurationError(f"log_bytes of an amqp:// URL is at least {LEAST_LOG_BYTES}.")
            log_bytes = int(value)
        elif key in _TLS:
            passed[key] = value
        else:
            raise ConfigurationError(
                f"An amqp:// URL has no setting {key}. There are: prefix, log_bytes, {', '.join(_TLS)}."
            )
    port = port or (5671 if url.scheme == "amqps" else 5672)
    shown_host = f"[{host}]" if ":" in host else host
    place = f"{shown_host}:{port}"
    account = url.netloc.rpartition("@")[0] or "guest:guest"
    host_path = unquote(url.path[1:])
    path = "/" + (quote(host_path, safe="") if host_path not in ("", "/") else "")
    query = urlencode({**passed, "heartbeat": heartbeat, "name": name})
    return Address(
        f"{url.scheme}://{account}@{place}{path}?{query}", f"{url.scheme}://{place}{path}", prefix, log_bytes
    )
