"""The protocol's messages as protobuf's, for gRPC: `hubbub.proto`, and envelopes in its shape."""
