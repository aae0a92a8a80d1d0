"""The kit's public names; they are imported from `hubbub.testing` itself."""

from .clock import Clock, within
from .factories import FaultProxyTo, HubClient, HubServer, ServerProcess
from .faults import FaultProxy
from .line import InProcess, InProcessLine
from .participant import Participant
from .processes import NotStarted, Process
from .serving import Served, serving

__all__ = [
    "Clock",
    "FaultProxy",
    "FaultProxyTo",
    "HubClient",
    "HubServer",
    "InProcess",
    "InProcessLine",
    "NotStarted",
    "Participant",
    "Process",
    "Served",
    "ServerProcess",
    "serving",
    "within",
]
