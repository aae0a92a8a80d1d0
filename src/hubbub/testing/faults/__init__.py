"""Faults of the network for tests: values, plans, and a TCP proxy that has them happen."""

from .connection import ProxiedConnection
from .fault import (
    FOREVER,
    KINDS,
    BlackHole,
    Clear,
    CloseAfter,
    Cut,
    Delay,
    Direction,
    Fault,
    HalfOpen,
    Refuse,
    Reset,
    Split,
    Stall,
    Throttle,
    parse_fault,
)
from .plan import RANDOM_KINDS, Plan, RandomFaults, Share, Step, Target, parse_script, parse_step
from .proxy import FaultProxy, Happened, Statistics

__all__ = [
    "FOREVER",
    "KINDS",
    "RANDOM_KINDS",
    "BlackHole",
    "Clear",
    "CloseAfter",
    "Cut",
    "Delay",
    "Direction",
    "Fault",
    "FaultProxy",
    "HalfOpen",
    "Happened",
    "Plan",
    "ProxiedConnection",
    "RandomFaults",
    "Refuse",
    "Reset",
    "Share",
    "Split",
    "Stall",
    "Statistics",
    "Step",
    "Target",
    "Throttle",
    "parse_fault",
    "parse_script",
    "parse_step",
]
