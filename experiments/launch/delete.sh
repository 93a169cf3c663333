#!/usr/bin/env bash
# Deletes the slice, with its disks and whatever runs there; the bucket stays.
#   experiments/launch/delete.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

perform gcloud compute tpus queued-resources delete "$NAME" "${place[@]}" --force --quiet
