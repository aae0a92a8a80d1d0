"""How a client's line comes in: each module carries one kind of line."""
