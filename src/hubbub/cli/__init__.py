"""The command line: ``hubbub serve|connect|bench|chaos|routes|demo``."""

from .main import app, main

__all__ = ["app", "main"]
