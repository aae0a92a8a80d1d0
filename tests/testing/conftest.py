"""The kit's fixtures, without the entry point by which pytest finds them elsewhere."""

from hubbub.testing.plugin import clock, fault_proxy, hub_client, hub_server, server_process

__all__ = ["clock", "fault_proxy", "hub_client", "hub_server", "server_process"]
