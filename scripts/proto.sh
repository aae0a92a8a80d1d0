#!/bin/sh
# Makes anew what is made of hubbub.proto: the compiled file that hubbub reads, and the stubs of the example.
set -eu
cd "$(dirname "$0")/.."
folder=src/hubbub/protocol/protobuf
.venv/bin/python -m grpc_tools.protoc -I"$folder" --descriptor_set_out="$folder/hubbub.binpb" \
    --python_out=examples/grpc --pyi_out=examples/grpc --grpc_python_out=examples/grpc hubbub.proto
