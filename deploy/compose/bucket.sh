#!/bin/sh
# Puts the bucket of compose.yaml in order and gives each program a key that may do no more than it needs, below DIR.
# Runs as the owner, whose keys NASMESH_STORE_CREDENTIALS names; may be repeated.
set -eu
dir=${1:?usage: bucket.sh DIR POLICIES}
policies=${2:?usage: bucket.sh DIR POLICIES}
umask 077
nasmesh admin bucket init --keys "$dir/store/roles" --policies "$policies"
for program in scheduler generate train evaluate; do
  # Renamed into place: a program that reads meanwhile sees the old file or the new one.
  cp "$dir/store/roles/$program.keys" "$dir/$program/store.new"
  mv "$dir/$program/store.new" "$dir/$program/store"
done
