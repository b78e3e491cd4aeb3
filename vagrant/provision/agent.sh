#!/usr/bin/env bash
# The agent host: hostagent from its package, and a governed sample service. provision/agent.sh TARGET-ADDRESS. Safe to run again.
set -euo pipefail
target=$1
given=/tmp/hostagent
checkout=/hostagent
export DEBIAN_FRONTEND=noninteractive

say() { echo "agent: $*"; }
fail() {
  echo "agent: $*" >&2
  journalctl --no-pager -q -n 40 -u support-bot.service -u 'hostagent-*' >&2 2>/dev/null || true
  exit 1
}
trap 'fail "provisioning stopped at line $LINENO"' ERR

# -- the package
newest() { find "$checkout/build/deb" -name 'hostagent_*.deb' -printf '%T@ %p\n' 2>/dev/null | sort -n | tail -1 | cut -d' ' -f2-; }
package=$(newest)
if [ -z "$package" ]; then
  say "no package in build/deb: building one (some minutes)"
  apt-get -qq update
  apt-get -qq install --no-install-recommends make >/dev/null
  make -C "$checkout" deb
  package=$(newest)
  [ "$package" ] || fail "make deb left no package in build/deb"
fi
if ! cmp -s "$package" /var/cache/hostagent-installed.deb; then
  say "installing $(basename "$package")"
  apt-get -qq update || say "no package lists to be had: going on with what is installed"
  apt-get -qq install --no-install-recommends --allow-downgrades --reinstall "$package" postgresql-client-15
  cp "$package" /var/cache/hostagent-installed.deb
fi

# -- the target, its credential and who may do what: the documents that a person would write
grep -q ' crm.internal$' /etc/hosts || echo "$target crm.internal" >>/etc/hosts
sed -i "s/^.* crm.internal$/$target crm.internal/" /etc/hosts
install -m 644 "$given/ca.pem" /etc/ssl/certs/crm-ca.pem
install -m 600 "$given/crm-password" /etc/hostagent/secrets/crm
cat >/etc/hostagent/targets/crm-db.yaml <<'END'
protocol: postgres
hosts: [crm.internal]
port: 5432
tls: verify
ca_file: /etc/ssl/certs/crm-ca.pem
databases: [crm]
users: [crm_app]
login:
  user: crm_proxy
  credential: {file: /etc/hostagent/secrets/crm}
labels: {env: demo}
END
cat >/etc/hostagent/workloads/support-bot.yaml <<'END'
launchers: [root, vagrant]
identity:
  kind: local
  groups: [support]
  purpose: answer customer tickets
trust_files: [/etc/ssl/certs/crm-ca.pem]
END
groupadd -f hostagent-approvers
usermod -aG hostagent-approvers,hostagent-rec vagrant
hostagent policy new customer-data --from-example customer-data --force
rm -rf "$given"

say "starting hostagent"
systemctl enable -q hostagent.target
hostagent config check
systemctl restart hostagent.target
hostagent status --wait 120 || fail "hostagent does not come up: journalctl -u 'hostagent-*'"
hostagent doctor || [ $? = 1 ] || fail "hostagent doctor names what is missing on this host"  # 1: warnings

say "waiting for the target"
for ((try = 0; try < 120; try++)); do
  ! timeout 2 bash -c ">/dev/tcp/crm.internal/5432" 2>/dev/null || break
  sleep 1
done
timeout 2 bash -c ">/dev/tcp/crm.internal/5432" || fail "the target host does not answer at $target:5432: vagrant up target"

# -- a service as somebody might have it, and then governed
cat >/usr/local/bin/support-bot <<'END'
#!/bin/sh
# Asks the database for customers, once a minute, with a password that is wrong: it needs none.
export PGSSLMODE=verify-full PGSSLROOTCERT=/etc/ssl/certs/crm-ca.pem PGPASSWORD=none
while :; do
  psql -X -At -h crm.internal -U crm_app crm -c 'select name, email, card_number from customers order by id' || echo "support-bot: the database said no"
  sleep 60
done
END
chmod 755 /usr/local/bin/support-bot
cat >/etc/systemd/system/support-bot.service <<'END'
[Unit]
Description=A sample service that answers customer tickets
[Service]
ExecStart=/usr/local/bin/support-bot
Restart=on-failure
[Install]
WantedBy=multi-user.target
END
systemctl daemon-reload
hostagent adopt support-bot.service --workload support-bot
systemctl enable -q support-bot.service
systemctl restart support-bot.service || fail "support-bot does not start as a governed service"
for ((try = 0; try < 60; try++)); do
  ! journalctl -q -u support-bot.service --since -5min | grep -q 'Ada Byron' || break
  sleep 1
done
journalctl -q -u support-bot.service --since -5min | grep 'Ada Byron' || fail "support-bot got no rows: journalctl -u support-bot"
say "ready: sudo hostagent verify"
