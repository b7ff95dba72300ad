#!/bin/sh
# Usage: install-tree.sh agent|aggregator PYTHON WHEELS DESTDIR
# Puts one of the two programs below DESTDIR, for the interpreter PYTHON (an absolute path, that of the host which it is
# to run on): its modules and all that they need in /usr/lib/loiter-agent or /usr/lib/loiter-aggregator, its command in
# /usr/bin, and its settings, all commented out, in /usr/share. The packages of Debian and of RPM are made of this.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$here/../..
part=$1 python=$2 wheels=$3 destdir=$4
pip=${PIP:-$root/.venv/bin/python -m pip}

case $part in
  agent) requirement='loiter' other=loiter_aggregator module=loiter_agent command=loiter-agent ;;
  aggregator) requirement='loiter[aggregator]' other=loiter_agent module=loiter_aggregator command=loiter ;;
  *) echo "install-tree.sh: $part is neither agent nor aggregator" >&2; exit 2 ;;
esac
name=loiter-$part
library=$destdir/usr/lib/$name

mkdir -p "$library"
$pip --python "$python" --quiet install --no-index --find-links "$wheels" --constraint "$here/constraints.txt" \
  --target "$library" --no-compile --root-user-action ignore "$requirement"

# What nothing here imports: the other program, commands of libraries, their manual pages, tests and sample data, what C
# and Fortran are compiled against, stubs of types. RECORD would name what is gone.
rm -rf "$library/bin" "$library/share" "$library/$other" "$library/numpy/f2py" \
  "$library/matplotlib/mpl-data/sample_data" "$library"/*-stubs "$library"/*.dist-info/RECORD \
  "$library"/*.dist-info/direct_url.json "$library"/*.dist-info/REQUESTED "$library"/*.dist-info/INSTALLER
find "$library" -depth -type d \( -name tests -o -name include \) -exec rm -rf {} +
find "$library" -type f \( -name '*.pyi' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.[acfh]' -o -name '*.lib' \) -delete
find "$library" -type f -exec chmod 644 {} +

# Byte code that is taken as it is: nothing is written at run time, and times of files do not matter.
"$python" -I -m compileall -q -j 0 --invalidation-mode unchecked-hash -s "$destdir" -p / "$library"

# Nothing that it needs was left out: every module of the program can be imported, by what is here alone.
"$python" -BIS - "$library" "$module" <<'IMPORTS'
import importlib
import pkgutil
import sys

library, name = sys.argv[1:]
sys.path.append(library)
for module in pkgutil.walk_packages(importlib.import_module(name).__path__, f"{name}."):
    if not module.name.endswith(".__main__"):
        importlib.import_module(module.name)
IMPORTS

mkdir -p "$destdir/usr/bin" "$destdir/usr/share/$name"
cat >"$destdir/usr/bin/$command" <<LAUNCHER
#!$python -BIS
# Of this host, Python's own library alone is used: no variable of the environment, no site-packages (-I, -S).
import sys

sys.path.append("/usr/lib/$name")

from $module.__main__ import main

main()
LAUNCHER
chmod 755 "$destdir/usr/bin/$command"
PYTHONPATH=$library "$python" -B "$here/config_file.py" "$part" >"$destdir/usr/share/$name/$part.toml"
