"""What an ablation compares: variances, chains, how many samples. Read by command lines, so nothing heavy is here."""

from typing import NamedTuple

from ddpm_jax.diffusion.conventions import Rules


class Design(NamedTuple):
    """What is compared.

    Attributes:
      rules: the conventions; its levels are the data's.
      variances: choices (`variances.find`), in the order of the tables; none for all that the denoiser has heads for.
      trajectories: quadratic, optimal or optimal_free, beside even.
      K: chain lengths of the likelihood table.
      sample_K: chain lengths that are sampled, on the even trajectory.
      images: samples per variance, K and seed.
      seeds: sampling seeds.
      features: feature extractor for the Frechet distance, a name of `features.FEATURES`.
    """

    rules: Rules
    variances: tuple[str, ...] = ()
    trajectories: tuple[str, ...] = ("even", "optimal", "optimal_free")
    K: tuple[int, ...] = (10, 25, 50, 100, 200, 400, 1000)
    sample_K: tuple[int, ...] = (10, 25, 50)
    images: int = 300
    seeds: int = 3
    features: str = "classifier"
