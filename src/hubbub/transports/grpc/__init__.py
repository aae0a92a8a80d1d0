"""gRPC: the service of `hubbub.proto` on a server of `grpc.aio`, on the event loop of the hub.

Importing it raises :exc:`ConfigurationError` where the package is missing.
"""

import os

from ...errors import ConfigurationError

# See `client/grpc_line.py`: programs that an application starts would crash now and then.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

try:
    from .health import Health
    from .server import GRPCServer, add, services
    from .service import Service
except ModuleNotFoundError as problem:
    if (problem.name or "").startswith("hubbub"):
        raise
    raise ConfigurationError("gRPC needs packages more: pip install 'hubbub[grpc]'.") from None

__all__ = ["GRPCServer", "Health", "Service", "add", "services"]
