#!/bin/sh
# Installs the official openai client into a folder (default build/openai) for the HTTP suite.
set -eu
folder=${1:-$(dirname "$0")/../../build/openai}
if [ -d "$folder/openai" ]; then
    exit 0
fi
echo "installing the openai client into $folder" >&2
mkdir -p "$folder"
exec /usr/bin/python3 -m pip install --quiet --disable-pip-version-check --target "$folder" openai
