#!/bin/sh
# Usage: build.sh [FOLDER]
# Makes the tarball for hosts without a network and without packages for them: loiter and all that it depends on, as
# wheels with their hashes, and install.sh. It goes to FOLDER, dist/ by default, with its checksum beside it.
# It is for one Python and one platform: those of PYTHON, by default /usr/bin/python3.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
python=$(readlink -f "$(command -v "${PYTHON:-/usr/bin/python3}")")
mkdir -p "${1:-$root/dist}"
out=$(cd "${1:-$root/dist}" && pwd)
export PIP="${PIP:-$root/.venv/bin/python -m pip}"

version=$(sed -n 's/^_VERSION: Final = "\(.*\)"$/\1/p' "$root/proto/loiter/version.py")
platform=$("$python" -I "$root/deploy/packages/wheel_platform.py")
name=loiter-$version-wheelhouse-$platform
collected=$("$root/deploy/packages/collect-wheels.sh" "$python")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/$name
mkdir -p "$tree/wheels"
requirements() { # REQUIREMENT
  $PIP --python "$python" --quiet install --dry-run --ignore-installed --no-index --find-links "$collected" \
    --constraint "$root/deploy/packages/constraints.txt" --root-user-action ignore --report - "$1" |
    "$python" -I "$here/requirements.py" "$tree/wheels"
}
requirements "loiter==$version" >"$tree/agent.txt"
requirements "loiter[aggregator]==$version" >"$tree/aggregator.txt"
# pip itself, which a host may not have. It is run from its wheel, and not installed.
cp "$collected"/pip-*.whl "$tree/wheels/"
cp "$here/install.sh" "$root/LICENSE" "$root/CHANGELOG.md" "$tree/"
echo "$platform" >"$tree/PLATFORM"
(cd "$tree" && find . -type f ! -name SHA256SUMS -printf '%P\n' | LC_ALL=C sort | xargs sha256sum >SHA256SUMS)

# The same input makes the same tarball; the date is that of the files in the wheel of loiter.
tar -C "$work" --sort=name --mtime="@${SOURCE_DATE_EPOCH:-1580601600}" --owner=0 --group=0 --numeric-owner \
  --mode='u=rwX,go=rX' -cf - "$name" | gzip -n >"$out/$name.tar.gz"
(cd "$out" && sha256sum "$name.tar.gz" >"$name.tar.gz.sha256" && ls -l "$name.tar.gz" && cat "$name.tar.gz.sha256")
