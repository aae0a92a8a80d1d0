"""Lines over plain HTTP: what the server says is one long answer or many short ones, the client POSTs.

They are for clients that can't open WebSockets, or whose proxies don't let them: ``EventSource`` (WHATWG
HTML, section 9.2, server-sent events), ``fetch`` with a streamed answer, and polling. All of them are at the
URL of the WebSocket, and speak JSON.
"""
