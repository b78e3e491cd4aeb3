#!/bin/sh
# Puts the units of this checkout in place and enables them, for whoever runs from a checkout; the package does the same by itself.
#   systemd/install.sh [VENV]      install (VENV: the virtual environment, default the checkout's .venv); starts nothing
#   systemd/install.sh --remove    after `hostagent uninstall`: take the files away again; accounts and state stay
set -eu
here=$(cd "$(dirname "$0")" && pwd)
units=/etc/systemd/system
if [ "${1:-}" = --remove ]; then
  systemctl disable -q hostagent.target 2>/dev/null || true
  for file in "$here"/*.service "$here"/*.socket "$here"/*.target "$here"/*.slice; do rm -f "$units/$(basename "$file")"; done
  rm -f /usr/bin/hostagent-login /etc/sysusers.d/hostagent.conf /etc/tmpfiles.d/hostagent.conf
  if [ -L /usr/lib/hostagent ]; then rm -f /usr/lib/hostagent /usr/bin/hostagent; fi
  systemctl daemon-reload
  exit 0
fi
venv=${1:-$(dirname "$here")/.venv}
[ -x "$venv/bin/python" ] || { echo "no virtual environment at $venv: make setup" >&2; exit 1; }
[ ! -e /usr/lib/hostagent ] || [ -L /usr/lib/hostagent ] || { echo "/usr/lib/hostagent exists: the package is installed" >&2; exit 1; }
mkdir -p /etc/sysusers.d /etc/tmpfiles.d
ln -sfn "$venv" /usr/lib/hostagent
ln -sfn /usr/lib/hostagent/bin/hostagent /usr/bin/hostagent
install -m 644 "$here"/*.service "$here"/*.socket "$here"/*.target "$here"/*.slice "$units/"
install -m 755 "$here/hostagent-login" /usr/bin/hostagent-login
install -m 644 "$here/hostagent.sysusers" /etc/sysusers.d/hostagent.conf
install -m 644 "$here/hostagent.tmpfiles" /etc/tmpfiles.d/hostagent.conf
systemd-sysusers /etc/sysusers.d/hostagent.conf
install -d -m 755 /etc/hostagent /etc/hostagent/workloads /etc/hostagent/targets /etc/hostagent/policy
systemd-tmpfiles --create /etc/tmpfiles.d/hostagent.conf
systemctl daemon-reload
systemctl enable -q hostagent.target
