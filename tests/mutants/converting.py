"""Mistakes in how other projects' networks are read and written, and in features and what is made of them."""

from tests.mutants.seeded import Mutant

IMPROVED = "ddpm_jax/convert/improved_diffusion.py"
SAID = ("tests/convert/test_improved_diffusion.py::test_an_imported_network_says_what_improved_diffusion_says",)
BACK = ("tests/convert/test_diffusers.py::test_what_is_exported_comes_back_as_the_same_network",)

MUTANTS: list[Mutant] = [
    Mutant(
        "parts_before_heads",
        "of each head its rows for q, then those for k, then those for v",
        IMPROVED,
        "array.reshape(config.attention_heads, 3, -1, *array.shape[1:2])",
        "array.reshape(3, config.attention_heads, -1, *array.shape[1:2]).swapaxes(0, 1)",
        SAID,
    ),
    Mutant("time_from_one", "improved-diffusion counts time from 0", IMPROVED, "time_start=0", "time_start=1", SAID),
    Mutant(
        "no_zeros_before_halving",
        "improved-diffusion has zeros on both sides where it halves an image",
        IMPROVED,
        "downsample_padding=1",
        "downsample_padding=0",
        SAID,
    ),
    Mutant(
        "time_turned_the_other_way",
        "sin(a + o) = sin(a) cos(o) + cos(a) sin(o)",
        "ddpm_jax/convert/diffusers.py",
        "sine * np.cos(offset) - cosine * np.sin(offset)",
        "sine * np.cos(offset) + cosine * np.sin(offset)",
        BACK,
    ),
    Mutant(
        "averages_over_zeros",
        "Inception's averages are over the pixels there are",
        "ddpm_jax/eval/windows.py",
        "jnp.asarray(np.outer(down, across)[:, :, None], x.dtype)",
        "9",
        ("tests/eval/test_inception.py::test_features_are_those_of_pytorch_fid",),
    ),
    Mutant(
        "an_average_in_the_last_block",
        "Inception's last block takes maxima",
        "ddpm_jax/eval/inception.py",
        'windows.largest(x, 1, "SAME")',
        "windows.averaged(x)",
        ("tests/eval/test_inception.py::test_features_are_those_of_pytorch_fid",),
    ),
    Mutant(
        "sums_without_the_means_apart",
        "the scatter of two parts has that of their means",
        "ddpm_jax/eval/fid.py",
        "(one.n * other.n / n)",
        "0",
        ("tests/eval/test_fid.py::test_sums_of_parts_are_those_of_the_whole",),
    ),
    Mutant(
        "kernel_of_a_feature_with_itself",
        "the unbiased discrepancy leaves out pairs of a feature with itself",
        "ddpm_jax/eval/feature_metrics.py",
        "(values.sum() - np.trace(values))",
        "values.sum()",
        ("tests/eval/test_feature_metrics.py::test_kid_is_the_mean_over_pairs_of_its_kernel",),
    ),
    Mutant(
        "shards_share_their_noise",
        "a shard has the noise of its own images",
        "ddpm_jax/eval/quality.py",
        "sampler.keys_of(jax.random.key(seed), first, last)",
        "sampler.keys_of(jax.random.key(seed), 0, last - first)",
        ("tests/eval/test_quality.py::test_shards_are_parts_of_the_whole",),
    ),
    Mutant(
        "a_reference_without_calibration_images",
        "the training split is all that was not held out for tests",
        "ddpm_jax/eval/judge.py",
        "[found.train.images, found.calibration.images]",
        "[found.train.images]",
        ("tests/eval/test_judge.py::test_the_training_split_is_all_that_was_not_held_out_for_tests",),
    ),
    Mutant(
        "a_factor_of_the_variances",
        "F F^T = cov",
        "ddpm_jax/eval/fid.py",
        "np.sqrt(np.maximum(values[kept], 0))",
        "np.maximum(values[kept], 0)",
        ("tests/eval/test_fid.py::test_diagonal_covariances_have_a_closed_form",),
    ),
    Mutant(
        "a_budget_without_the_short_chains",
        "the longest chains are given up, not the shortest",
        "ddpm_jax/eval/budget.py",
        "del left[max(left)]",
        "del left[min(left)]",
        ("tests/eval/test_budget.py::test_then_the_longest_chains_are",),
    ),
]
