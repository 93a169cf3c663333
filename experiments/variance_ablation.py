"""Which variance should the reverse step have? The article's open question, answered for one data set.

The claim of the project; all of it is the command `ddpm_jax.cli.ablate`.
Command: python -m experiments.variance_ablation --workdir runs/digits
"""

from ddpm_jax.cli import ablate, options
from ddpm_jax.cli.command import command_line

if __name__ == "__main__":
    command_line(options.Ablation, ablate.main, ablate.__doc__ or "")
