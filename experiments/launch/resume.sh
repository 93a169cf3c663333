#!/usr/bin/env bash
# Sees a run to its end: creates the slice, sets it up, runs, and does so again whenever the slice is lost. Can be
# stopped and started again. Takes the words of run.sh and ends with the run's exit code; the slice stays.
#   SPOT=1 experiments/launch/resume.sh -- ddpm_jax train --preset cifar10; experiments/launch/delete.sh
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
source "$here/settings.sh"

lost() { # the request has ended, or its machines have
    case $(state queued-resources state.state) in
        SUSPENDED | FAILED) ;;
        ACTIVE) [[ $(state tpu-vm state) =~ ^(PREEMPTED|TERMINATED|NONE)$ ]] ;;
        *) false ;;
    esac
}
begin() { "$here/create.sh" && "$here/setup.sh" && "$here/run.sh" -- "$@"; }

begun=no failures=0
while true; do
    code=$(perform gcloud storage cat "$bucket/finished" 2>/dev/null) || true
    if [[ $code =~ ^[0-9]+$ ]]; then
        echo "$NAME: exit code $code, says $bucket/finished; run.sh starts anew"
        exit "$code"
    fi
    if lost; then "$here/delete.sh" && begun=no; fi
    if [ $begun = no ]; then begin "$@" && begun=yes failures=0 || failures=$((failures + 1)); fi
    [ $failures -lt 5 ] || stop "$NAME could not be begun five times: see above, and delete.sh what costs" 1
    [ -z "$DRY_RUN" ] || exit 0
    sleep "$POLL"
done
