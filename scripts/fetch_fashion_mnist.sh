#!/usr/bin/env bash
# Puts Fashion-MNIST's four files under ${NASMESH_DATA:-./data}/fashion-mnist, from Debian's package
# dataset-fashion-mnist (MIT licence, 31 MB). Nothing is installed. Does nothing when the right files are there.
set -euo pipefail
cd "$(dirname "$0")/.."

PACKAGE=dataset-fashion-mnist
SYSTEM=/usr/share/datasets/fashion-mnist
TARGET=${NASMESH_DATA:-data}/fashion-mnist
DIGESTS='b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7  train-images-idx3-ubyte.gz
0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056  train-labels-idx1-ubyte.gz
cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa  t10k-images-idx3-ubyte.gz
8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05  t10k-labels-idx1-ubyte.gz'

is_right() { [ -d "$1" ] && (cd "$1" && echo "$DIGESTS" | sha256sum --check --status 2>/dev/null); }

fail() { echo "fetch_fashion_mnist: $1" >&2; exit 1; }

# Copied beside the target first and renamed, so that an interrupted run leaves no half a data set.
adopt() {
  local fresh
  mkdir -p "$(dirname "$TARGET")"
  fresh=$(mktemp -d "$(dirname "$TARGET")/.fashion-mnist.XXXXXX")
  echo "$DIGESTS" | while read -r _ name; do cp "$1/$name" "$fresh/$name"; done
  chmod 755 "$fresh"
  rm -rf "$TARGET"
  mv "$fresh" "$TARGET"
  echo "Fashion-MNIST is in $TARGET"
}

if is_right "$TARGET"; then echo "Fashion-MNIST is in $TARGET already"; exit 0; fi
if is_right "$SYSTEM"; then adopt "$SYSTEM"; exit 0; fi

for tool in apt-get dpkg-deb sha256sum; do
  command -v "$tool" >/dev/null || fail "$tool is missing. On a system without Debian's tools put the four files of \
https://github.com/zalandoresearch/fashion-mnist (data/fashion) into $TARGET; they are checked by SHA-256."
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
download() { (cd "$work" && apt-get download -qq "$PACKAGE" 2>"$work/log"); }
if ! download; then
  # A fresh image has no package lists yet; only root can get them.
  apt-get update -qq >/dev/null 2>&1 || true
  download || fail "apt-get download $PACKAGE failed: $(tail -n 1 "$work/log"). Fix: as root run 'apt-get update', \
check that the Debian mirror in /etc/apt is reachable, then run this again."
fi
dpkg-deb -x "$work"/"$PACKAGE"_*.deb "$work/unpacked"
is_right "$work/unpacked$SYSTEM" || fail "the package's files do not have the known SHA-256 digests; nothing was kept"
adopt "$work/unpacked$SYSTEM"
