#!/usr/bin/env bash
# Generates the committed stubs from protos/ into a folder (default: the repository). Usage: scripts/protos.sh [OUT]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-.}
bin=.venv/bin
mkdir -p "$out"
generate() { "$bin/python" -W ignore -m grpc_tools.protoc -Iprotos \
  --plugin=protoc-gen-mypy="$bin/protoc-gen-mypy" --plugin=protoc-gen-mypy_grpc="$bin/protoc-gen-mypy_grpc" "$@"; }
generate --python_out="$out" --mypy_out=quiet:"$out" protos/nasmesh/v1/*.proto
generate --grpc_python_out="$out" --mypy_grpc_out=quiet:"$out" protos/nasmesh/v1/*_service.proto
generate --python_out="$out" --mypy_out=quiet:"$out" --grpc_python_out="$out" --mypy_grpc_out=quiet:"$out" protos/nasmesh/keda/*.proto
