"""Which variance should the reverse step have? The article's open question, answered for one data set.

The claim of the project; all of it is the command `ddpm-jax ablate`, whose options it takes.
Command: python -m experiments.variance_ablation --workdir runs/digits
"""

from ddpm_jax.cli.main import main

if __name__ == "__main__":
    main(command="ablate")
