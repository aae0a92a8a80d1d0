"""What a client that compresses sends (RFC 7692)."""

import zlib

COMPRESSED = 0x40
"""The bit that says so, in a message's first byte."""

OFFER = "Sec-WebSocket-Extensions: permessage-deflate"


def deflated(data: bytes) -> bytes:
    """Return the payload of a message."""
    compressor = zlib.compressobj(9, wbits=-15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")
