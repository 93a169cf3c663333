"""`python -m ddpm_jax`: the commands."""

from ddpm_jax.cli.main import main

if __name__ == "__main__":
    main()
