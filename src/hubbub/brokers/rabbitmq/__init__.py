"""The broker on RabbitMQ: a stream holds a log of all that happens in rooms, which every instance applies."""

import math
import secrets

from ...settings import Settings
from .address import parse
from .broker import RabbitBroker

__all__ = ["RabbitBroker", "open_broker"]


def open_broker(settings: Settings) -> RabbitBroker:
    """Return the broker at an ``amqp://`` or ``amqps://`` URL; :exc:`ConfigurationError` if it can't be."""
    instance = secrets.token_hex(6)
    heartbeat = max(1, math.ceil(settings.broker_timeout))
    return RabbitBroker(
        parse(settings.broker, heartbeat=heartbeat, name=f"hubbub {instance}"),
        instance=instance,
        window=settings.deduplication_window,
        lease=settings.lease,
        timeout=settings.broker_timeout,
    )
