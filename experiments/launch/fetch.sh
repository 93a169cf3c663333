#!/usr/bin/env bash
# Copies the run's workdir from the bucket to a local folder, by default runs/$NAME; the checkpoints stay there.
#   experiments/launch/fetch.sh -- runs/cifar10
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

folder=${1:-runs/$NAME}
perform mkdir -p "$folder"
perform gcloud storage rsync --recursive "$bucket/workdir" "$folder"
