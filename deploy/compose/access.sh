#!/bin/sh
# Makes what the services of compose.yaml know each other by, below DIR: an authority, certificates, tokens, passwords.
# What is there stays; certificates are made anew at every start, and programs take them up as they run.
# Each service sees its own folder only; the authority's key stays in DIR/authority.
set -eu
dir=${1:?usage: access.sh DIR}
days=90
user=10001      # of our images
postgres=999    # of PostgreSQL's image
umask 077
programs="scheduler generate train evaluate"
for folder in $programs client store minio postgres; do mkdir -p "$dir/$folder"; done

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
keep() { [ -s "$1" ] || printf '%s' "$2" > "$1"; }

if [ ! -e "$dir/authority/ca.crt" ]; then
  nasmesh certs init --dir "$dir/authority" --days "$days" --host scheduler --host localhost --host 127.0.0.1 > /dev/null
fi
certificate() { # NAME FOLDER CERT KEY HOST…: a server's certificate
  name=$1 to="$dir/$2" cert=$3 key=$4
  shift 4
  hosts=
  for host in "$@"; do hosts="$hosts --host $host"; done
  # shellcheck disable=SC2086  # words of their own
  nasmesh certs issue --dir "$dir/authority" --role server --name "$name" --days "$days" $hosts > /dev/null
  # Renamed into place: a program that reads meanwhile sees the old file or the new one.
  cp "$dir/authority/server-$name.key" "$to/$key.new" && mv "$to/$key.new" "$to/$key"
  cp "$dir/authority/server-$name.crt" "$to/$cert.new" && mv "$to/$cert.new" "$to/$cert"
}
certificate scheduler scheduler tls.crt tls.key scheduler localhost 127.0.0.1
certificate minio minio public.crt private.key minio localhost 127.0.0.1
certificate postgres postgres server.crt server.key postgres localhost 127.0.0.1
for folder in $programs client store; do
  cp "$dir/authority/ca.crt" "$dir/$folder/ca.crt"
done

token() { # NAME SCOPE FILE: a new one where there is none, or one of more than a month; the old one ends by itself
  if [ -e "$3" ] && [ -z "$(find "$3" -mtime +30)" ]; then return; fi
  rm -f "$3.new"
  nasmesh token create --tokens "$dir/scheduler/tokens.json" --name "$1" --scope "$2" --days "$days" --out "$3.new" > /dev/null
  mv "$3.new" "$3"
}
token mesh agent "$dir/generate/token"
cp -p "$dir/generate/token" "$dir/train/token"
cp -p "$dir/generate/token" "$dir/evaluate/token"
token operator admin "$dir/client/token"

keep "$dir/minio/user" nasmesh-owner
keep "$dir/minio/password" "$(random)"
# The owner's; bucket.sh has it give each program a key of its own.
printf 'access_key=%s\nsecret_key=%s\n' "$(cat "$dir/minio/user")" "$(cat "$dir/minio/password")" > "$dir/store/owner.keys"
keep "$dir/postgres/password" "$(random)"
printf 'postgres:5432:nasmesh:nasmesh:%s\n' "$(cat "$dir/postgres/password")" > "$dir/scheduler/passfile"

chmod -R u=rwX,go= "$dir"
chmod 755 "$dir"
# Only root may give files away; without it, everything stays with whoever runs this.
if [ "$(id -u)" = 0 ]; then
  for folder in $programs client store; do chown -R "$user:$user" "$dir/$folder"; done
  chown -R "$postgres:$postgres" "$dir/postgres"
fi
