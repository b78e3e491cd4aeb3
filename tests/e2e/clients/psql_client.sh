#!/bin/bash
# Everything that psql does in daily life. A governed run must print what a direct run prints.
set -u
folder=$(mktemp -d)
cd "$folder" || exit 1
trap 'rm -rf "$folder"' EXIT
ask() { psql -X -v VERBOSITY=verbose -v SHOW_CONTEXT=always "$@" 2>&1 | sed -e 's/with PID [0-9]*/with PID N/' -e 's/^LOCATION: .*//'; }

echo "-- simple, several statements, unicode, aligned and not"
ask -c "select 1 as one, 'Grüße, 世界' as \"größe\", null as nothing" -c 'select 2; select 3'
ask -At -c "select 1; select 'two'"
ask -x -c "select 1 as a, 'two' as b"

echo "-- a script with everything"
ask <<'SQL'
create table drvp_rows (id int primary key, word text);
\copy drvp_rows from stdin with (format csv)
1,one
2,"two, with a comma"
3,drei Ü
\.
copy drvp_rows from stdin;
4	four
\.
\copy (select * from drvp_rows order by id) to 'out.csv' with (format csv, header)
\! cat out.csv
copy drvp_rows to stdout;
select * from drvp_rows order by id \gdesc
select * from drvp_rows where id = :id;
\set id 2
select * from drvp_rows where id = :id \gx
select 'select ' || id || ' as made' from drvp_rows order by id \gexec
\set FETCH_COUNT 100
select n, n * n from generate_series(1, 350) n;
\unset FETCH_COUNT
begin;
declare wander scroll cursor for select n from generate_series(1, 10) n;
fetch 3 from wander;
fetch backward 2 from wander;
move last in wander;
fetch prior from wander;
close wander;
savepoint here;
insert into drvp_rows values (1, 'twice');
select 'in a failed transaction';
rollback to savepoint here;
insert into drvp_rows values (5, 'five');
commit;
select * from drvp_rows order by id;
\set ON_ERROR_ROLLBACK on
begin;
selec 1;
insert into drvp_rows values (6, 'six');
commit;
prepare doubled(int) as select $1 * 2;
execute doubled(21);
deallocate doubled;
execute doubled(21);
listen drvp_channel;
notify drvp_channel, 'hello';
select 'after the notification';
unlisten drvp_channel;
do $$ begin raise notice 'hello % and Ü', 42; raise warning 'careful' using hint = 'a hint', detail = 'a detail'; end $$;
drop table if exists never_there;
set timezone to 'Asia/Tokyo';
show timezone;
explain (costs off) select * from drvp_rows where id = 1;
select length(repeat('x', 10485760)), md5(repeat('x', 10485760));
create function drvp_raise() returns void language plpgsql as $$ begin raise exception 'from inside' using errcode = 'P0042'; end $$;
select drvp_raise();
select 1/0;
select * from no_such_table;
SQL

echo "-- describing"
ask -c '\d drvp_rows' -c '\dt drvp_*' -c '\df drvp_*' -c '\d+ customers' -c '\dn' -c '\du crm_proxy'

echo "-- a big value and many rows"
ask -At -c "select repeat('0123456789abcdef', 655360)" | sha256sum
ask -At -c "select n, md5(n::text), case when n % 7 = 0 then null else 'row ' || n end from generate_series(1, 100000) n" | sha256sum
seq 1 50000 | sed 's/$/\tline/' > rows
ask -c 'create table drvp_many (id int, word text)' -c "\\copy drvp_many from 'rows'" -c 'select count(*), sum(id) from drvp_many'

echo "-- cancel by Control-C"
psql -X -c 'select pg_sleep(20.5)' > cancelled 2>&1 &
running=$!
for _ in $(seq 1 200); do
  [ "$(psql -X -At -c "select count(*) from pg_stat_activity where state = 'active' and query = 'select pg_sleep(20.5)'")" = 1 ] && break
done
kill -INT $running
wait $running
echo "status $?"
cat cancelled

echo "-- status of a failing script"
psql -X -q -v ON_ERROR_STOP=1 -c 'select 1/0' -c "select 'never'"
echo "status $?"
psql -X -1 -q -f - <<'SQL'
insert into drvp_rows values (100, 'rolled back');
select no_such_function();
SQL
echo "status $?"
ask -c 'select count(*) from drvp_rows' -c 'drop table drvp_rows, drvp_many' -c 'drop function drvp_raise()'
