"""hubbub over plain ASGI, on the uvicorn WebSocket class that the ASGI peers have too."""

from dataclasses import replace

from benchmarks.peers import hubbub_server

peer = replace(
    hubbub_server.peer,
    name="hubbub-asgi",
    command=lambda port: hubbub_server.command(port, "--no-native", "--no-compression"),
    compressed=lambda port: hubbub_server.command(port, "--no-native"),
    across=None,
    held=None,
)
