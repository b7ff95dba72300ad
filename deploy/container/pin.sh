#!/bin/sh
# Pins what goes into the images: versions and hashes of every dependency, for every platform. Run it to move them.
set -eu
cd "$(dirname "$0")/../.."
uv=${1:-.venv/bin/uv}
pin() {
  "$uv" pip compile --quiet --universal --generate-hashes --python-version 3.11 --upgrade --no-annotate \
    --custom-compile-command deploy/container/pin.sh "$@"
}
# The versions of the packages: what is tested is what is shipped.
versions='--constraint deploy/packages/constraints.txt'
# shellcheck disable=SC2086
pin $versions --output-file deploy/container/agent.txt pyproject.toml
# shellcheck disable=SC2086
pin $versions --output-file deploy/container/aggregator.txt --extra aggregator pyproject.toml
echo 'hatchling>=1.27,<2' | pin --output-file deploy/container/build.txt -
