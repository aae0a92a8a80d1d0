"""Engine.IO, version 4 of its protocol and version 3 of older clients: what Socket.IO stands on.

https://socket.io/docs/v4/engine-io-protocol/ is the protocol. It knows no rooms and no sessions of the hub.
"""

from .application import EngineIO as EngineIO
from .listener import EngineListener as EngineListener
from .listener import Reason as Reason
from .packets import Dialect as Dialect
from .packets import Packet as Packet
from .socket import EngineSocket as EngineSocket
