#!/usr/bin/env bash
# On every worker: the code at COMMIT, a Python environment, and what lies in gs://$BUCKET/data. Can be run again.
#   experiments/launch/setup.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

steps=(
    "set -e"
    "test -d ddpm_jax || git clone --quiet $(printf %q "$REPOSITORY") ddpm_jax"
    "cd ddpm_jax"
    "git fetch --quiet origin"
    "git checkout --quiet --detach $(printf %q "$COMMIT")"
    "bash experiments/launch/worker_setup.sh $(printf %q "gs://$BUCKET/data")"
)
on all "$(printf '%s; ' "${steps[@]}")"
