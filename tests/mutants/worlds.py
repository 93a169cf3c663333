"""Seeded mistakes for the mixture, the finite set, exact heads and the propagated density."""

from tests.mutants.seeded import Mutant

MUTANTS = (
    Mutant(
        "components_forget_their_weights",
        "Bayes' rule: the weight of a component is w_k times the density of x_t under it",
        "ddpm_jax/mixture.py",
        "jax.nn.log_softmax(mixture.log_weights + _log_normal(residual, total), axis=1)",
        "jax.nn.log_softmax(_log_normal(residual, total), axis=1)",
        ("tests/test_mixture.py::test_bayes_rule_is_that_of_every_component_and_of_the_weights",),
    ),
    Mutant(
        "variance_within_components_only",
        "Var = sum_k w_k (variance_k + (mean_k - mean)^2): between the components too",
        "ddpm_jax/mixture.py",
        "_weights(mixture) * (mixture.variance + apart**2)",
        "_weights(mixture) * (mixture.variance + 0 * apart**2)",
        ("tests/test_mixture.py::test_bayes_rule_is_that_of_every_component_and_of_the_weights",),
    ),
    Mutant(
        "earlier_blocks_keep_their_scale",
        "the sums over a finite set are rescaled when a later block has a larger weight",
        "ddpm_jax/finite_set.py",
        "old * sums.first + first",
        "sums.first + first",
        ("tests/test_finite_set.py::test_denoiser_and_covariance_are_the_dense_sums_for_any_block",),
    ),
    Mutant(
        "the_last_block_counts_data_twice",
        "every datum of a finite set weighs once, whatever the block",
        "ddpm_jax/finite_set.py",
        "jnp.where(row < first[:, None], jnp.inf, half_norm)",
        "jnp.where(row < 0, jnp.inf, half_norm)",
        ("tests/test_finite_set.py::test_denoiser_and_covariance_are_the_dense_sums_for_any_block",),
    ),
    Mutant(
        "exact_sn_is_the_excess",
        "the head of sn says E[eps^2 | x_t] = h + eps_hat^2",
        "ddpm_jax/worlds.py",
        "sn=h + prediction.eps**2",
        "sn=h",
        ("tests/test_worlds.py::test_exact_heads_make_every_trained_variance_the_exact_one",),
    ),
    Mutant(
        "density_moves_without_its_jacobian",
        "a step without noise moves the density: p_s(mean(x)) = p_t(x)/mean'(x)",
        "ddpm_jax/eval/density.py",
        "CubicSpline(mean, log_p - np.log(np.gradient(mean, x)))",
        "CubicSpline(mean, log_p)",
        ("tests/eval/test_density.py::test_a_gaussian_chain_stays_the_gaussian_of_the_recursion",),
    ),
    Mutant(
        "steep_means_leave_gaps",
        "where the mean is steep against the noise the whole cell is carried",
        "ddpm_jax/eval/density.py",
        "steep = width > kernel.deviation",
        "steep = width > np.inf",
        ("tests/eval/test_density.py::test_a_mean_that_is_steep_against_the_noise_leaves_no_gaps",),
    ),
    Mutant(
        "mean_excess_upside_down",
        "M_t = alpha_bar_t/(1 - alpha_bar_t) E Cov[x_0 | x_t]",
        "ddpm_jax/eval/density.py",
        "return signal / noise * _sum(",
        "return noise / signal * _sum(",
        ("tests/eval/test_density.py::test_the_mean_excess_is_that_of_a_gaussian",),
    ),
)
