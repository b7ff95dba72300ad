#!/bin/sh
# Sees to it that the programs the tests compare with are there: ss and ip (iproute2), netstat (net-tools), unshare
# (util-linux), openssl for a certificate, libfaketime for clocks that are wrong. Installs what is missing where it may.
set -eu
missing=
command -v ss >/dev/null && command -v ip >/dev/null || missing="$missing iproute2"
command -v netstat >/dev/null || missing="$missing net-tools"
command -v unshare >/dev/null || missing="$missing util-linux"
command -v openssl >/dev/null || missing="$missing openssl"
ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || missing="$missing faketime"
[ -n "$missing" ] || exit 0
as_root=
[ "$(id -u)" = 0 ] || as_root='sudo -n'
if command -v apt-get >/dev/null && $as_root true 2>/dev/null; then
  echo "installing$missing"
  $as_root apt-get -qq update
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y $missing >/dev/null
else
  echo "the tests need these packages:$missing" >&2
  exit 1
fi
