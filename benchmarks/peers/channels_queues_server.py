"""Django Channels with the default layer of channels_redis: a queue for each instance. Only across them."""

import sys

from benchmarks.by_path import FANOUT
from benchmarks.peers import Across, Peer, channels_server

peer = Peer(
    name="queues",
    command=channels_server.peer.command,
    across=Across(
        lambda port, url: [
            *(sys.executable, "-m", channels_server.__name__, str(port), "plain"),
            *(channels_server.QUEUES, url),
        ],
        FANOUT,
    ),
    packages=channels_server.peer.packages,
)
