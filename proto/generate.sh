#!/bin/sh
# Generates the Python code and type stubs of every .proto file into a folder: proto/generate.sh DIR [PYTHON]
set -eu
out=$(realpath "$1")
python=${2:-python3}
case $python in */*) python=$(realpath -s "$python") ;; esac
bin=$(dirname "$python")
cd "$(dirname "$0")"
plugins="--plugin=protoc-gen-mypy=$bin/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$bin/protoc-gen-mypy_grpc"
# shellcheck disable=SC2086 # two words
"$python" -m grpc_tools.protoc -I. $plugins --python_out="$out" --mypy_out=quiet:"$out" loiter/v1/*.proto
# shellcheck disable=SC2086
"$python" -m grpc_tools.protoc -I. $plugins --grpc_python_out="$out" --mypy_grpc_out=quiet:"$out" \
  loiter/v1/*_service.proto
