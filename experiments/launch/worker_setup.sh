#!/usr/bin/env bash
# Installs on one worker what a run needs, and copies the data from the bucket to ~/data; setup.sh starts it.
#   experiments/launch/worker_setup.sh gs://my-bucket/data
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

mkdir -p runs ~/data
if ! test -x .venv/bin/pip; then # the machines' own Python is 3.10
    rm -rf .venv
    python3 -m pip install --quiet --user uv
    python3 -m uv venv --quiet --seed --python 3.12 .venv
fi
.venv/bin/pip install --quiet --editable '.[tpu,gcs]'
if [ $# -gt 0 ] && gcloud storage ls "$1" >/dev/null; then gcloud storage rsync --recursive "$1" ~/data; fi
