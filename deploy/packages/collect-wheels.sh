#!/bin/sh
# Usage: collect-wheels.sh [PYTHON [FOLDER]]
# Collects the wheels of loiter and of all that it depends on, for the interpreter PYTHON: in the versions of
# constraints.txt, each of them checked against the hashes in deploy/container. pip is among them, for hosts that have
# none. What is made of these wheels needs neither pip nor a network on the host that it is installed on.
# They are kept in FOLDER, by default build/wheels/PLATFORM, which is printed: a second run fetches only what is new.
# UPDATE=1 takes the newest versions instead, and writes them to constraints.txt; deploy/container/pin.sh then adds the
# hashes.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${1:-/usr/bin/python3}
wheels=${2:-$root/build/wheels/$("$python" -I "$here/wheel_platform.py")}
# Of the environment that `make setup` made; it runs in PYTHON, which needs no pip of its own.
pip=${PIP:-$root/.venv/bin/python -m pip}

mkdir -p "$wheels"
# Only wheels: nothing that others wrote is run, or compiled, while a package is made.
# pip's warnings are of the places that it looks in, which are this machine's affair; an error is shown.
download() {
  $pip --python "$python" --quiet --quiet download --only-binary :all: --find-links "$wheels" --dest "$wheels" "$@"
}

if [ "${UPDATE:-}" = 1 ]; then
  rm -f "$wheels"/*.whl
  $pip --quiet wheel --no-deps --wheel-dir "$wheels" "$root"
  download "loiter[aggregator] @ file://$(ls "$wheels"/loiter-*.whl)" pip
  {
    sed -n '/^#/p' "$here/constraints.txt"
    ls "$wheels" | sed -nE '/^loiter-/d; s/^([A-Za-z0-9_.]+)-([0-9][^-]*)-.*\.whl$/\1==\2/; s/_/-/gp'
  } >"$here/constraints.txt.new"
  mv "$here/constraints.txt.new" "$here/constraints.txt"
else
  download --require-hashes --requirement "$root/deploy/container/aggregator.txt" --requirement "$here/pip.txt"
  # Put there in one piece: another build may be reading.
  fresh=$(mktemp -d "$wheels/fresh.XXXXXX")
  trap 'rm -rf "$fresh"' EXIT
  $pip --quiet wheel --no-deps --wheel-dir "$fresh" "$root"
  for old in "$wheels"/loiter-*.whl; do
    [ -e "$fresh/$(basename "$old")" ] || rm -f "$old"
  done
  mv "$fresh"/loiter-*.whl "$wheels/"
fi
echo "$wheels"
