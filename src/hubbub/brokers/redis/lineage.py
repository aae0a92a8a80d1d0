"""Whether a server can have forgotten what it acknowledged, and whether it is of use at all.

Positions must not be given twice. A room's head says in which lineage it was written, and another one begins
a new epoch (see scripts.py). So a lineage must end wherever writes may be lost: when a server is started
again, unless it puts every write on the disk before it answers; and when a replica takes a master's place,
always, as replication may lag behind.
"""

import ssl
from collections.abc import Awaitable, Callable, Mapping

from redis.exceptions import ResponseError

from ...errors import ConfigurationError
from ...observe.log import fields, logger
from .address import Place
from .replies import Reply

OLDEST = (7, 0)
"""The oldest version that has all that is needed: sharded Pub/Sub."""

SAFE = b"disk"
"""The lineage of all servers that put writes on the disk at once, and were nobody's replica and have none."""

_REFUSED = (
    "WRONGPASS",
    "NOAUTH",
    "NOPERM",
    "ERR AUTH",
    "ERR invalid password",
    "ERR DB index",
    "ERR invalid DB",
)


class NotMaster(Exception):
    """The server is a replica."""


def refusal(problem: BaseException, where: object) -> ConfigurationError | None:
    """Return what an error says that trying again does not help with; None if that may help."""
    told = str(problem)
    if isinstance(problem, ResponseError) and told.startswith(_REFUSED):
        if told.startswith("NOPERM"):
            return ConfigurationError(
                f"The user of the setting broker may not do on Redis at {where} what is needed: {told[:200]}"
            )
        if "DB index" in told or "invalid DB" in told:
            return ConfigurationError(f"Redis at {where} has no such database as the setting broker names.")
        return ConfigurationError(
            f"Redis at {where} does not accept the user and password of the setting broker."
        )
    cause = problem.__cause__ or problem.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return ConfigurationError(
            f"The certificate of Redis at {where} is not trusted ({cause.verify_message}): "
            "name who signed it with ssl_ca_certs in the URL."
        )
    return None


Ask = Callable[..., Awaitable[Reply]]
"""Asks a server one thing; an error in answer is raised."""


async def facts(ask: Ask) -> dict[str, str]:
    """Return what a server says of itself."""
    told: dict[str, str] = {}
    for section in (b"server", b"replication", b"memory", b"cluster"):
        reply = await ask(b"INFO", section)
        told |= _pairs(reply if isinstance(reply, bytes) else b"")
    try:
        reply = await ask(b"CONFIG", b"GET", b"*append*")
    except ResponseError:
        # Those who rent servers out may keep this to themselves.
        reply = []
    words = reply if isinstance(reply, list) else []
    told |= {
        name.decode(errors="replace"): value.decode(errors="replace")
        for name, value in zip(words[::2], words[1::2], strict=True)
        if isinstance(name, bytes) and isinstance(value, bytes)
    }
    return told


def lineage_of(told: Mapping[str, str]) -> bytes:
    """Return the lineage of a server as it is now."""
    on_disk = (
        told.get("appendonly") == "yes"
        and told.get("appendfsync") == "always"
        and told.get("no-appendfsync-on-rewrite") == "no"
    )
    alone = told.get("connected_slaves") == "0" and not told.get("master_replid2", "").strip("0")
    if on_disk and alone:
        return SAFE
    return f"{told.get('run_id')}:{told.get('master_replid')}".encode()


def check(told: Mapping[str, str], place: Place, *, cluster: bool) -> None:
    """Raise what speaks against a server: :exc:`ConfigurationError`, or :exc:`NotMaster`."""
    version = told.get("redis_version", "")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
    if numbers < OLDEST:
        raise ConfigurationError(
            f"Redis at {place} is version {version[:20] or 'unknown'}; hubbub needs 7.0 or newer."
        )
    if cluster != (told.get("cluster_enabled") == "1"):
        scheme, what = ("redis+cluster", "is") if not cluster else ("redis", "is not")
        raise ConfigurationError(f"Redis at {place} {what} part of a cluster: use {scheme}://.")
    if told.get("role") != "master":
        raise NotMaster("It is a replica.")


def warn(told: Mapping[str, str], place: Place) -> None:
    """Say in the log what an operator should know of a server's settings."""
    policy = told.get("maxmemory_policy", "noeviction")
    if policy != "noeviction" and told.get("maxmemory", "0") != "0":
        logger.warning(
            "broker may evict",
            extra=fields(
                server=str(place),
                maxmemory_policy=policy,
                remedy="Set maxmemory-policy noeviction: rooms that Redis evicts lose their history.",
            ),
        )
    if lineage_of(told) != SAFE:
        logger.info(
            "broker may forget",
            extra=fields(
                server=str(place),
                appendonly=told.get("appendonly", "unknown"),
                appendfsync=told.get("appendfsync", "unknown"),
                replicas=told.get("connected_slaves", "unknown"),
                because="A restart or a failover of Redis begins new epochs: clients are told of a gap.",
            ),
        )


def _pairs(reply: bytes) -> dict[str, str]:
    lines = reply.decode(errors="replace").splitlines()
    return {name: value for name, found, value in (line.partition(":") for line in lines) if found}
