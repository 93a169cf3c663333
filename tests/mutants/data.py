"""Mistakes in how times are drawn, in zero-terminal schedules and in the prepared data sets."""

from tests.mutants.seeded import Mutant

MUTANTS = (
    Mutant(
        "times_without_their_weight",
        "a drawn loss has the weight 1/(K p_k), so that its mean is the mean over all times",
        "ddpm_jax/time_sampler.py",
        "ends[-1].astype(jnp.float32) / (share.shape[0] * share[k].astype(jnp.float32))",
        "jnp.ones(k.shape)",
        ("tests/test_time_sampler.py::test_the_weighted_loss_has_the_mean_over_all_times_as_its_expectation",),
    ),
    Mutant(
        "times_by_the_mean_square",
        "loss_second_moment: p_k ~ sqrt(E[L_k^2]), with the square root",
        "ddpm_jax/time_sampler.py",
        "root = jnp.sqrt(jnp.mean(history.losses**2, axis=1))",
        "root = jnp.mean(history.losses**2, axis=1)",
        ("tests/test_time_sampler.py::test_shares_are_the_oracles_probabilities_also_of_rare_indices",),
    ),
    Mutant(
        "weighed_before_all_times_are_known",
        "draws are uniform until every time has ten losses",
        "ddpm_jax/time_sampler.py",
        "(jnp.min(history.counts) >= KEPT)",
        "(jnp.max(history.counts) >= KEPT)",
        ("tests/test_time_sampler.py::test_draws_are_uniform_until_every_index_has_ten_losses",),
    ),
    Mutant(
        "repeats_in_a_batch_overwrite_each_other",
        "a time drawn twice in a batch leaves both losses in the history",
        "ddpm_jax/time_sampler.py",
        "(history.counts[k] + before) % KEPT",
        "history.counts[k] % KEPT",
        ("tests/test_time_sampler.py::test_the_history_holds_the_last_ten_losses_of_every_index",),
    ),
    Mutant(
        "antithetic_over_half_of_the_times",
        "antithetic: k_i = floor(K frac(u_0 + i/B)): examples are K/B indices apart and every stratum is hit once",
        "ddpm_jax/time_sampler.py",
        "k = (r + index * K) % (K * batch) // batch",
        "k = (r + index * K // 2) % (K * batch) // batch",
        ("tests/test_time_sampler.py::test_antithetic_hits_every_stratum_equally",),
    ),
    Mutant(
        "zero_terminal_by_alpha_bar",
        "zero_terminal shifts sqrt(alpha_bar), not alpha_bar",
        "ddpm_jax/schedule.py",
        "return from_betas(np.append(beta[1], drop * (q[:-1] + q[1:]) / q[:-1] ** 2))",
        "return from_betas(np.append(beta[1], drop / q[:-1]))",
        ("tests/test_schedule.py::test_tables_equal_plain_loops",),
    ),
    Mutant(
        "zero_terminal_moves_the_first_time",
        "zero_terminal leaves alpha_bar_1 as it is",
        "ddpm_jax/schedule.py",
        "np.append(beta[1], drop",
        "np.append(beta[2], drop",
        ("tests/test_schedule.py::test_zero_terminal_ends_at_0_and_keeps_alpha_bar_1",),
    ),
    Mutant(
        "calibration_images_are_learned",
        "train, calibration and test are disjoint",
        "ddpm_jax/data.py",
        "for i in np.split(order, [len(order) - HELD_OUT]))",
        "for i in (order, order[-HELD_OUT:]))",
        ("tests/test_data.py::test_prepared_sets_are_read_whole_in_three_disjoint_parts",),
    ),
    Mutant(
        "halved_images_are_cut_off",
        "averaged pixels are rounded to the nearest grey level, halves up",
        "ddpm_jax/data.py",
        "rows[:, :, 1::2] + 2) // 4)",
        "rows[:, :, 1::2]) // 4)",
        ("tests/test_data.py::test_halved_cifar10_is_the_mean_of_2_by_2_pixels_rounded_halves_up",),
    ),
)
