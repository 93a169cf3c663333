#!/usr/bin/env bash
# Follows what worker 0 prints, until Ctrl-C; the run goes on.
#   experiments/launch/logs.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/settings.sh"

on 0 "tail -n 100 -F ddpm_jax/runs/$NAME.log"
