#!/usr/bin/env bash
# The target host: a PostgreSQL that serves the agent host over TLS alone. provision/target.sh AGENT-ADDRESS. Safe to run again.
set -euo pipefail
agent=$1
given=/tmp/hostagent
export DEBIAN_FRONTEND=noninteractive

say() { echo "target: $*"; }
fail() { echo "target: $*" >&2; exit 1; }
trap 'fail "provisioning stopped at line $LINENO"' ERR

if ! dpkg-query -W -f='${Status}' postgresql-15 2>/dev/null | grep -q 'ok installed'; then
  say "installing PostgreSQL"
  apt-get -qq update
  apt-get -qq install --no-install-recommends postgresql-15 >/dev/null
fi
settings=/etc/postgresql/15/main
install -o postgres -g postgres -m 600 "$given/server.key" "$settings/server.key"
install -o postgres -g postgres -m 644 "$given/server.pem" "$settings/server.pem"
cat >"$settings/conf.d/hostagent.conf" <<END
listen_addresses = '*'
ssl = on
ssl_cert_file = '$settings/server.pem'
ssl_key_file = '$settings/server.key'
password_encryption = 'scram-sha-256'
END
cat >"$settings/pg_hba.conf" <<END
local   all all               peer
hostssl crm crm_proxy $agent/32 scram-sha-256
END
systemctl enable -q postgresql.service
systemctl restart postgresql@15-main.service

say "waiting for PostgreSQL"
for ((try = 0; try < 60; try++)); do
  ! runuser -u postgres -- pg_isready -q || break
  sleep 1
done
runuser -u postgres -- pg_isready -q || fail "PostgreSQL does not answer: journalctl -u postgresql@15-main"

sql() { runuser -u postgres -- psql -qX -v ON_ERROR_STOP=1 "$@"; }
cd /
password=$(cat "$given/crm-password")
[ "$(sql -Atc "select 1 from pg_roles where rolname = 'crm_proxy'")" ] || sql -c 'create role crm_proxy login'
sql -c "alter role crm_proxy password '$password'"
if [ -z "$(sql -Atc "select 1 from pg_database where datname = 'crm'")" ]; then
  say "filling the database crm"
  sql -c 'create database crm'
  sql -d crm <<END
create table customers (id serial primary key, name text, email text, phone text, card_number text, country text);
insert into customers (name, email, phone, card_number, country) values
  ('Ada Byron', 'ada@example.com', '+44 20 7946 0101', '4111 1111 1111 1111', 'GB'),
  ('Jean Martin', 'jean@example.org', '+33 1 99 00 12 34', '5500 0000 0000 0004', 'FR');
create table orders (id serial primary key, customer integer references customers, item text, total numeric);
insert into orders (customer, item, total) values (1, 'analytical engine', 1843), (2, 'punched cards', 12.5);
create table stale_carts (id serial primary key, customer integer);
insert into stale_carts (customer) select 1 from generate_series(1, 12);
grant select, insert, update, delete on all tables in schema public to crm_proxy;
END
fi
rm -rf "$given"
say "ready: database crm, TLS, from $agent alone"
