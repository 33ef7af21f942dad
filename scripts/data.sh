#!/usr/bin/env bash
# Obtains the images of a data set. Usage: scripts/data.sh digits|fashion-mnist
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
  digits) echo "data: digits come with scikit-learn; nothing to fetch" ;;
  fashion-mnist) exec scripts/fetch_fashion_mnist.sh ;;
  *) echo "data: unknown data set '${1:-}'; choose digits or fashion-mnist" >&2; exit 2 ;;
esac
