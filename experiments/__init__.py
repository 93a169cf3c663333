"""One file, one claim or one tool: run it as `python -m experiments.NAME`."""
