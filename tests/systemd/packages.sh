#!/bin/sh
# Sees to it that the programs that the lab runs on are there: systemd-nspawn (systemd-container), debootstrap and
# Debian's keys, nsenter and unshare (util-linux), ip (iproute2), pgrep (procps), ssh for Ansible (openssh-client).
# Installs what is missing where it may. With the argument `images`, also what images are built and run by.
set -eu
missing=
command -v systemd-nspawn >/dev/null || missing="$missing systemd-container"
command -v debootstrap >/dev/null || missing="$missing debootstrap"
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || missing="$missing debian-archive-keyring"
command -v nsenter >/dev/null && command -v unshare >/dev/null || missing="$missing util-linux"
command -v ip >/dev/null || missing="$missing iproute2"
command -v pgrep >/dev/null || missing="$missing procps"
command -v ssh >/dev/null && command -v ssh-keygen >/dev/null || missing="$missing openssh-client"
if [ "${1:-}" = images ]; then
  command -v buildah >/dev/null || missing="$missing buildah"
  command -v runc >/dev/null || missing="$missing runc"
fi
[ -n "$missing" ] || exit 0
as_root=
[ "$(id -u)" = 0 ] || as_root='sudo -n'
if command -v apt-get >/dev/null && $as_root true 2>/dev/null; then
  echo "installing$missing"
  $as_root apt-get -qq update
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing >/dev/null
else
  # The tests skip by themselves, or fail where the lab is required.
  echo "the lab needs these packages:$missing" >&2
fi
