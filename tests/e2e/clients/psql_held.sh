#!/bin/bash
# A held statement in psql, given up with Control-C as soon as the hold's notice is there.
set -u
psql -X -c 'delete from held_rows where id = 1' > /tmp/held 2>&1 &
running=$!
for _ in $(seq 1 300); do
  grep -q NOTICE /tmp/held && break
  sleep 0.1
done
kill -INT $running
wait $running
grep -c 'ERROR:  canceling statement due to user request' /tmp/held
psql -X -At -c 'select count(*) from held_rows where id = 1'
