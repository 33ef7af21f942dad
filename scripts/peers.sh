#!/usr/bin/env bash
# Puts the peers that benchmarks compare with into .tools/peers, an environment of their own: Optuna and Vizier. They
# never enter .venv. What cannot be installed is left out, and the benchmark says so.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
peers=.tools/peers

install() {
  name=$1
  shift
  if [ -f "$peers/.$name" ] && [ "$(cat "$peers/.$name")" = "$*" ]; then return; fi
  [ -x "$peers/$name/bin/python" ] || "$python" -m venv "$peers/$name"
  echo "peers: installing $name into $peers/$name"
  if "$peers/$name/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; then
    echo "$*" > "$peers/.$name"
  else
    echo "peers: $name cannot be installed; the benchmark leaves it out" >&2
    rm -rf "${peers:?}/$name"
  fi
}

mkdir -p "$peers"
# Optuna's storages need SQLAlchemy (with it) and, for the proxy, grpcio and protobuf.
install optuna 'optuna==5.0.0' grpcio protobuf
# Its service imports JAX, though the random designer has no use for it; newer ones lack what it imports.
install vizier 'google-vizier[jax]==0.1.24' 'jax==0.4.38' 'jaxlib==0.4.38'
