#!/bin/bash
# pg_dump in its formats, and what was dumped restored through the same way. A governed run must print what a direct run prints.
set -u
folder=$(mktemp -d)
cd "$folder" || exit 1
trap 'rm -rf "$folder"' EXIT
plain() { grep -v -e '^-- Dumped' -e '^\\restrict' -e '^\\unrestrict'; }

psql -X -q <<'SQL'
create schema drvd;
create table drvd.parent (id int primary key generated always as identity, body text, blob bytea, made timestamptz default '2026-01-01');
create table drvd.child (id int references drvd.parent, tags text[], doc jsonb);
create index on drvd.child (id);
create view drvd.both_of_them as select p.id, c.doc from drvd.parent p join drvd.child c using (id);
create function drvd.twice(n int) returns int language sql immutable as 'select n * 2';
comment on table drvd.parent is 'Größe: it''s a comment';
insert into drvd.parent (body, blob) select case when n % 5 = 0 then null else E'line\t' || n || E'\n\\ Ü' end, decode(md5(n::text), 'hex') from generate_series(1, 5000) n;
insert into drvd.child select id, array['a', body], jsonb_build_object('id', id) from drvd.parent where id < 500;
analyze drvd.parent, drvd.child;
SQL

echo "-- plain"
pg_dump --schema=drvd | plain > plain.sql
echo "status ${PIPESTATUS[0]}"
sha256sum < plain.sql
grep -c . plain.sql
head -60 plain.sql
echo "-- inserts, data only, schema only"
pg_dump --schema=drvd --inserts --rows-per-insert=50 | plain | sha256sum
pg_dump --schema=drvd --data-only | plain | sha256sum
pg_dump --schema=drvd --schema-only | plain | sha256sum
echo "-- custom and directory with two jobs"
pg_dump --schema=drvd --format=custom --file=custom.dump
echo "status $?"
pg_restore --file=- custom.dump | plain | sha256sum
pg_dump --schema=drvd --format=directory --jobs=2 --file=folder.dump
echo "status $?"
pg_restore --file=- folder.dump | plain | sha256sum
echo "-- restored through the same way"
psql -X -q -c 'drop schema drvd cascade' 2> /dev/null
pg_restore --dbname="$PGDATABASE" --jobs=2 folder.dump
echo "status $?"
pg_dump --schema=drvd | plain | sha256sum
psql -X -q -c 'drop schema drvd cascade' 2>&1
echo "-- the customers as well"
pg_dump --table=customers --table=orders | plain
