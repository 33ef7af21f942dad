#!/usr/bin/env bash
# Fails where the protos are badly formatted, break the style or an earlier contract, or differ from the committed stubs.
set -euo pipefail
cd "$(dirname "$0")/.."
buf="$PWD/.venv/bin/buf"
(cd protos && "$buf" format --diff --exit-code && "$buf" lint)

# The contract that must not be broken: that of main where this is another branch, else that of the commit before.
# An object's name instead of a branch name: buf clones, and a clone need not have the branch.
against=HEAD~1
if git rev-parse --verify --quiet origin/main >/dev/null && [ "$(git rev-parse origin/main)" != "$(git rev-parse HEAD)" ]; then
  against=origin/main
fi
if git cat-file -e "$against:protos/buf.yaml" 2>/dev/null; then
  before=$(mktemp -d)
  trap 'rm -rf "$before"' EXIT
  git archive "$against" protos | tar -x -C "$before"
  (cd protos && "$buf" breaking --against "$before/protos")
else
  echo "protos: $against has no protos; nothing to compare with"
fi

fresh=$(mktemp -d)
trap 'rm -rf "${before:-}" "$fresh"' EXIT
scripts/protos.sh "$fresh"
for file in "$fresh"/nasmesh/*/*; do
  name=${file#"$fresh"/}
  cmp -s "$file" "$name" || { echo "protos: $name is stale; run: make protos" >&2; exit 1; }
done
