#!/bin/sh
# Usage: build.sh [FOLDER]
# Builds the packages of loiter for RPM and puts them in FOLDER, dist/ by default. To be run on the distribution that
# they are for: PYTHON, by default /usr/bin/python3.11, is the interpreter that they will depend on.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${PYTHON:-/usr/bin/python3.11}
mkdir -p "${1:-$root/dist}"
out=$(cd "${1:-$root/dist}" && pwd)
for tool in rpmbuild help2man "$python"; do
  command -v "$tool" >/dev/null || { echo "make rpm needs $tool" >&2; exit 1; }
done

version=$(sed -n 's/^_VERSION: Final = "\(.*\)"$/\1/p' "$root/proto/loiter/version.py")
export PIP="${PIP:-$root/.venv/bin/python -m pip}"
wheels=$("$root/deploy/packages/collect-wheels.sh" "$python")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/SOURCES"
tar -C "$root" --exclude=__pycache__ --transform "s|^|loiter-$version/|" -czf "$work/SOURCES/loiter-$version.tar.gz" \
  deploy/packages deploy/systemd LICENSE CHANGELOG.md
rpmbuild -bb --define "_topdir $work" --define "loiter_version $version" --define "wheels $wheels" \
  --define "python $python" "$here/loiter.spec" >"$work/build.log" 2>&1 || { tail -n 40 "$work/build.log" >&2; exit 1; }
find "$work/RPMS" -name '*.rpm' -exec mv -t "$out" {} +
(cd "$out" && ls -l loiter-*-"$version"-*.rpm)
