#!/usr/bin/env bash
# Starts a module of Python on every worker; it goes on when the connection ends. The same command again goes on with
# the run. The workdir is runs/$NAME unless it is given; what lies there, and only there, is kept in the bucket.
#   experiments/launch/run.sh -- ddpm_jax train --preset cifar10 --steps 800000 --learning-rate 2e-4
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

# Ho et al. 2020, appendix B, for CIFAR-10, and the warm-up of their code.
[ $# -gt 0 ] || set -- ddpm_jax train --preset cifar10 --steps 800000 --learning-rate 2e-4 --warmup 5000 \
    --ema-decay 0.9999 --save-every 5000 --sample-every 20000
training='^ddpm_jax( --import[ =][^ ]+)* train( |$)' # the only command of many processes
[[ "$*" =~ $training ]] || [ "${SLICE#*-}" -le 8 ] ||
    stop "SLICE = $SLICE: $1 ${2:-} runs in one process; choose a slice of one machine, for example v5e-8"
case " $* " in *" --workdir"[\ =]*) ;; *) set -- "$@" --workdir "runs/$NAME" ;; esac
case " $* " in
    *" --checkpoints"[\ =]*) ;;
    *) [[ ! "$*" =~ $training ]] || set -- "$@" --checkpoints "$bucket/checkpoints" ;;
esac

perform gcloud storage cp - "$bucket/finished" <<<no
on all "cd ddpm_jax && test -x .venv/bin/python || exit 1; \
nohup bash experiments/launch/worker_run.sh $(printf '%q ' "$bucket" "$@")>>runs/$NAME.log 2>&1 </dev/null &"
