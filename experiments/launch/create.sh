#!/usr/bin/env bash
# Asks Google for the slice, unless that is done already, and waits until it is there.
#   SPOT=1 experiments/launch/create.sh --dry-run
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

command=(gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" "${place[@]}"
    --accelerator-type="$accelerator" --runtime-version="$runtime")
[ "$SPOT" = 0 ] || command+=(--spot)
case $(state queued-resources state.state) in NONE | UNKNOWN) perform "${command[@]}" ;; esac

while [ -z "$DRY_RUN" ]; do
    now=$(state queued-resources state.state)
    echo "$(date +%T) $NAME: $now"
    case $now in
        ACTIVE) exit ;;
        FAILED | SUSPENDED) stop "the request for $NAME is $now: delete.sh and create it again, or resume.sh" 1 ;;
    esac
    sleep "$POLL"
done
