#!/bin/sh
# Sees to it that the programs are there that the aggregator is tried with: a browser, Prometheus, Alertmanager, tmux.
# Installs what is missing where it may, without starting any of it as a service.
set -eu
missing=
command -v chromium >/dev/null || missing="$missing chromium"
command -v prometheus >/dev/null && command -v promtool >/dev/null || missing="$missing prometheus"
command -v prometheus-alertmanager >/dev/null && command -v amtool >/dev/null || missing="$missing prometheus-alertmanager"
command -v tmux >/dev/null || missing="$missing tmux"
[ -n "$missing" ] || exit 0
as_root=
[ "$(id -u)" = 0 ] || as_root='sudo -n'
if command -v apt-get >/dev/null && $as_root true 2>/dev/null; then
  echo "installing$missing"
  $as_root apt-get -qq update
  # A policy that forbids to start services (see invoke-rc.d(8)), for as long as this takes, unless there is one.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e $policy ]; then
    trap '$as_root rm -f $policy' EXIT
    printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null
    $as_root chmod 755 $policy
  fi
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing >/dev/null
else
  # The tests skip by themselves, or fail where the other ends are required.
  echo "the tests of the other ends need these packages:$missing" >&2
fi
