#!/usr/bin/env bash
# Runs a module of Python on one worker, in the repository's folder; run.sh starts it. Worker 0 fetches runs/NAME from
# the bucket first, copies it there every minute, and in the end leaves the exit code in the bucket, as `finished`.
#   experiments/launch/worker_run.sh gs://my-bucket/cifar10 ddpm_jax train --workdir runs/cifar10
set -euo pipefail
bucket=$1 workdir=runs/${1##*/} pause=${PAUSE:-60}
shift
export TFDS_DATA_DIR=${TFDS_DATA_DIR:-$HOME/data}
mkdir -p "$workdir"
exec 9>"$workdir.running"
flock --nonblock 9 || { echo "it is running already" && exit; }
trap : TERM # when the machine is taken away, Python stores its state, and the logs are copied once more

storage() { flock "$workdir.copying" gcloud storage "$@"; } # one at a time
copy() {
    storage rsync --recursive --exclude='(.*/)?\.lock$|.*orbax-checkpoint-tmp.*' "$workdir" "$bucket/workdir" || true
    [ ! -e "$workdir.log" ] || storage cp "$workdir.log" "$bucket/output.log" || true
}

# By this number JAX finds process 0, which alone writes the workdir.
worker=$(curl --silent --show-error --fail --retry 5 --header 'Metadata-Flavor: Google' \
    http://metadata.google.internal/computeMetadata/v1/instance/attributes/agent-worker-number)
if [ "$worker" = 0 ]; then
    date | storage cp - "$bucket/workdir/started.txt" # so that there is something to fetch
    [ -e "$workdir.fetched" ] || storage rsync --recursive "$bucket/workdir" "$workdir"
    touch "$workdir.fetched"
    while sleep "$pause" && kill -0 $$ 2>/dev/null; do copy; done 9>&- &
fi
while true; do
    code=0
    .venv/bin/python -m "$@" || code=$?
    [ "$worker" != 0 ] || copy
    case $code in 75 | 134 | 143) sleep "$pause" ;; *) break ;; esac # another worker has died, or a notice came: again
done
[ "$worker" != 0 ] || storage cp - "$bucket/finished" <<<"$code"
exit "$code"
