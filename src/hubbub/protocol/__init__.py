"""The language on the wire. Knows no event loop and no socket."""
