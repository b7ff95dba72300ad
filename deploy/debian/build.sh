#!/bin/sh
# Usage: build.sh [FOLDER]
# Builds the packages loiter-agent and loiter-aggregator for this machine's Debian and architecture, and puts them in
# FOLDER, dist/ by default. Wheels are kept in build/wheels; all else that is made on the way is removed.
# Installs what is needed for it where it may, and names it where it may not.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
mkdir -p "${1:-$root/dist}"
out=$(cd "${1:-$root/dist}" && pwd)

# A build needs debhelper's and python3's packages, whatever their names are in Build-Depends.
missing=
command -v dpkg-buildpackage >/dev/null || missing="$missing dpkg-dev"
for package in debhelper help2man po-debconf python3; do
  dpkg-query --show --showformat '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
    missing="$missing $package"
done
if [ -n "$missing" ]; then
  as_root=
  [ "$(id -u)" = 0 ] || as_root='sudo -n'
  if command -v apt-get >/dev/null && $as_root true 2>/dev/null; then
    echo "installing$missing"
    $as_root apt-get -qq update
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing >/dev/null
  else
    echo "make deb needs these packages:$missing" >&2
    exit 1
  fi
fi

version=$(sed -n 's/^_VERSION: Final = "\(.*\)"$/\1/p' "$root/proto/loiter/version.py")
packaged=$(dpkg-parsechangelog --file "$here/changelog" --show-field Version)
[ "${packaged%-*}" = "$version" ] || {
  echo "deploy/debian/changelog is of version $packaged, the code of $version: add an entry" >&2
  exit 1
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP="${PIP:-$root/.venv/bin/python -m pip}"
WHEELS=$("$root/deploy/packages/collect-wheels.sh" "$(readlink -f /usr/bin/python3)")
export WHEELS

# Two programs, two packages, one source.
mkdir "$work/source"
cp -a "$root/agent" "$root/aggregator" "$root/proto" "$root/deploy" "$root/LICENSE" "$root/README.md" \
  "$root/CHANGELOG.md" "$root/pyproject.toml" "$work/source/"
find "$work/source" -name __pycache__ -prune -exec rm -rf {} +
cp -a "$here" "$work/source/debian"
rm "$work/source/debian/build.sh"
(
  cd "$work/source"
  SOURCE_DATE_EPOCH=$(dpkg-parsechangelog --show-field Timestamp)
  export SOURCE_DATE_EPOCH
  # Debug symbols: there are none to make. Build dependencies were seen to above.
  DEB_BUILD_OPTIONS="noautodbgsym nocheck ${DEB_BUILD_OPTIONS:-}" dpkg-buildpackage --build=binary --no-sign -d \
    >"$work/build.log" 2>&1 || { tail -n 40 "$work/build.log" >&2; exit 1; }
)
mv "$work"/*.deb "$out/"
(cd "$out" && ls -l loiter-agent_"$packaged"_*.deb loiter-aggregator_"$packaged"_*.deb)
