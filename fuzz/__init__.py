"""Coverage-guided fuzzing of what strangers' bytes reach first; README.md says how to run it."""

from pathlib import Path

TARGETS = (
    "frames", "envelope", "handshake", "publication",
    "engineio", "socketio", "bookmarks", "protobuf", "posts", "streams",
)  # fmt: skip

CORPUS = Path(__file__).parent / "corpus"
"""Inputs by target: where fuzzing begins, and every finding that was mended."""

FOUND = Path(__file__).parent / "found"
"""What runs find: inputs that reach something new, and those that a target fails on. Git ignores it."""
