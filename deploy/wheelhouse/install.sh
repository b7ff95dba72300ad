#!/bin/sh
# Usage: install.sh agent|aggregator [FOLDER]
# Installs loiter from the wheels beside this script into an environment of its own in FOLDER, /opt/loiter by default,
# without a network: the agent, or the agent and the aggregator. Where it is installed already, it is upgraded.
# PYTHON is the interpreter, by default the python3 of the version that the wheels are for.
set -eu
cd "$(dirname "$0")"
folder=${2:-/opt/loiter}
case ${1:-} in
  agent) next="$folder/bin/loiter-agent install --server HOST:PORT --ca ca.pem --token-file token" ;;
  aggregator) next="$folder/bin/loiter service install --name aggregator.example" ;;
  *) sed -n '2,5s/^# //p' install.sh >&2; exit 2 ;;
esac
umask 022 # the service runs as another user

fail() {
  echo "install.sh: $1" >&2
  exit 1
}

sha256sum --check --quiet SHA256SUMS || fail 'the files are damaged: copy the tarball again'
platform=$(cat PLATFORM)
tag=${platform%%-*} # cp311
minor=${tag#cp3}
python=${PYTHON:-$(command -v "python3.$minor" || command -v python3)} || fail "python3.$minor is not installed"
"$python" -I -c "
import sys, sysconfig
here = f'cp{sys.version_info.major}{sys.version_info.minor}-{sysconfig.get_platform().replace(chr(45), chr(95))}'
sys.exit(f'install.sh: the wheels are for $platform, and {sys.executable} is {here}' if here != '$platform' else 0)"

# Not the pip of the host, which may have none.
[ -x "$folder/bin/python" ] || "$python" -m venv --without-pip "$folder"
pip=$(echo wheels/pip-*.whl)
"$folder/bin/python" -I "$pip/pip" --isolated --disable-pip-version-check --quiet install --no-index \
  --find-links wheels --require-hashes --only-binary :all: --root-user-action ignore --requirement "$1.txt"

"$folder/bin/loiter-agent" --version
[ "$1" = agent ] || "$folder/bin/loiter" --version
echo "Next, as root: $next"
[ ! -e /etc/systemd/system/loiter-agent.service ] || echo 'The service that runs: systemctl restart loiter-agent'
[ ! -e /etc/systemd/system/loiter-aggregator.service ] || [ "$1" = agent ] ||
  echo 'The service that runs: systemctl restart loiter-aggregator'
