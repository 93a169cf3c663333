# What the other scripts share; they source it. Set in the environment, for example:
#   export NAME=cifar10 PROJECT=my-project ZONE=us-central1-a SLICE=v5e-8 BUCKET=my-bucket
#   export REPOSITORY=https://example.org/ddpm_jax.git COMMIT=$(git rev-parse HEAD)
# NAME is the slice's, and the name of its folder in the bucket. SPOT=1: cheaper, and may be taken away (default 0).
# POLL: seconds between two looks at what Google says (default 60). With --dry-run a script only prints its commands.
SPOT=${SPOT:-0} POLL=${POLL:-60}
export DRY_RUN=${DRY_RUN:-}
exec 3>&1 # where dry runs print, from within $(...) too

stop() { # MESSAGE [CODE]
    echo "error: $1" >&2
    exit "${2:-2}"
}

if [ "${1:-}" = --dry-run ]; then DRY_RUN=1 && shift; fi
[ "${1:---}" = -- ] || stop "unknown argument $1: give --dry-run, then words after --"
[ $# -eq 0 ] || shift
for example in NAME=cifar10 PROJECT=my-project ZONE=us-central1-a SLICE=v5e-8 BUCKET=my-bucket \
    REPOSITORY=https://example.org/ddpm_jax.git 'COMMIT=$(git rev-parse HEAD)'; do
    variable=${example%%=*}
    [ -n "${!variable:-}" ] || stop "$variable is not set: export $example"
done
[[ $NAME =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] || stop "NAME = $NAME: choose small letters, digits and hyphens"
[[ $SPOT =~ ^[01]$ ]] || stop "SPOT = $SPOT: choose 0 or 1"
[[ $BUCKET != gs://* ]] || stop "BUCKET = $BUCKET: give its name without gs://"
[[ $SLICE =~ ^v(5e|6e)-(1|4|8|16|32|64|128|256)$|^v(4|5p)-(8|16|32|64|128|256)$ ]] ||
    stop "SLICE = $SLICE: choose v5e-N or v6e-N, N chips (1, 4, 8, 16 ... 256); v4-N or v5p-N, N cores (8, 16 ... 256)"

# Google's names. Sources: cloud.google.com/tpu/docs/v5e, cloud.google.com/tpu/docs/runtimes ("PyTorch and JAX").
case $SLICE in
    v4-*) accelerator=$SLICE runtime=tpu-ubuntu2204-base ;;
    v5e-*) accelerator=v5litepod-${SLICE#v5e-} runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) accelerator=$SLICE runtime=v2-alpha-tpuv5 ;;
    v6e-*) accelerator=$SLICE runtime=v2-alpha-tpuv6e ;;
esac
place=(--project="$PROJECT" --zone="$ZONE")
bucket=gs://$BUCKET/$NAME

perform() { # COMMAND...: run it, or print it in a dry run
    local word
    if [ -z "$DRY_RUN" ]; then
        "$@"
        return
    fi
    for word in "$@"; do
        if [[ ! $word =~ ^[a-zA-Z0-9_./:=,-]+$ ]]; then word="'$(sed "s/'/'\\\\''/g" <<<"$word")'"; fi
        printf '%s ' "$word"
    done >&3
    echo >&3
}

on() { # WORKER COMMAND: by ssh; all for every worker
    perform gcloud compute tpus tpu-vm ssh "$NAME" "${place[@]}" --quiet --worker="$1" --command="$2"
}

state() { # KIND FIELD: Google's word; NONE if there is no such thing (as in a dry run), UNKNOWN if Google does not say
    local said
    said=$(perform gcloud compute tpus "$1" describe "$NAME" "${place[@]}" --format="value($2)" 2>&1) || true
    case $DRY_RUN$said in
        1 | *NOT_FOUND*) echo NONE ;;
        *) grep -xE '[A-Z_]+' <<<"$said" || { echo UNKNOWN && echo "$said" >&2; } ;;
    esac
}
