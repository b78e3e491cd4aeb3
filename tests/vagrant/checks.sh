#!/usr/bin/env bash
# What must be true on the agent host beside the commands of vagrant/README.md. Run there as root; stops at the first that is not.
set -euo pipefail
secret=$(cat /etc/hostagent/secrets/crm)
[ "${#secret}" -ge 32 ] || { echo "no secret to look for"; exit 1; }
psql() { hostagent run --workload support-bot -- psql -X "host=crm.internal dbname=crm user=crm_app sslmode=verify-full sslrootcert=/etc/ssl/certs/crm-ca.pem" -Atc "$1" </dev/null; }

# ask QUERY PATTERN: wait (30 s at most) until the evidence answers as the pattern says.
ask() {
  local answer try
  for ((try = 0; try < 30; try++)); do
    answer=$(hostagent sql --csv "$1" | tail -n +2)
    if grep -qE "$2" <<<"$answer"; then return; fi
    sleep 1
  done
  echo "expected $2, got: $answer"
  return 1
}

echo "check: two rows, masked as the policy says"
rows=$(psql 'select name, email, card_number from customers order by id')
[ "$(grep -c '^Ada Byron|\|^Jean Martin|' <<<"$rows")" = 2 ]
for value in '4111 1111 1111' '5500 0000 0000' ada@example jean@example; do
  if grep -qF -e "$value" <<<"$rows"; then echo "not masked, $value: $rows"; exit 1; fi
done

echo "check: the service is governed, and what it asked is on record"
ask "select distinct subject from sessions where workload = 'support-bot'" '.'
ask "select count(*) from statements where workload = 'support-bot' and text like '%card_number%'" '^[1-9]'
systemctl show -p ControlGroup support-bot.service | grep governed.slice

echo "check: a direct way is refused, and on record"
hostagent run --workload support-bot -- timeout 5 bash -c 'exec 3<>/dev/tcp/10.255.255.1/22; read -r -t 3 banner <&3; [ -z "$banner" ]' </dev/null || true
ask "select count(*) from refusals where workload = 'support-bot' and destination like '10.255.255.1%'" '^[1-9]'

echo "check: the proxy's password is where only root reads it, and nowhere in what hostagent keeps"
for folder in /var/lib/hostagent /run/hostagent /etc/hostagent/targets /var/log; do
  [ -d "$folder" ] || { echo "$folder is missing"; exit 1; }
done
if grep -rlaF -e "$secret" /var/lib/hostagent /run/hostagent /etc/hostagent/targets /etc/hostagent/workloads /var/log; then exit 1; fi
if journalctl -q --no-pager -o json | grep -qF -e "$secret"; then echo "the password is in the log"; exit 1; fi
if hostagent run --workload support-bot -- cat /etc/hostagent/secrets/crm </dev/null; then echo "a workload reads it"; exit 1; fi
echo "all checks passed"
