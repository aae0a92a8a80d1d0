"""Socket.IO, version 5 of its protocol and 4 of older clients, over Engine.IO: for clients that speak it."""
