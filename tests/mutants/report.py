"""Mistakes in what the page says: claims, tables and curves."""

from tests.mutants.seeded import Mutant

MUTANTS = (
    Mutant(
        "a claim of better needs no margin",
        "the two standard errors by which the better one has to lead",
        "ddpm_jax/report/claims.py",
        "return Margin(difference, where, -STANDARD_ERRORS * standard_error, standard_error)",
        "return Margin(difference, where, STANDARD_ERRORS * standard_error, standard_error)",
        ("tests/report/test_claims.py::test_better_is_by_more_than_two_standard_errors",),
    ),
    Mutant(
        "the error of a difference is the first one's",
        "se(a - b) <= se(a - i) + se(b - i)",
        "ddpm_jax/report/claims.py",
        'error = sum(row["paired_standard_error"] for row in pair)',
        'error = pair[0]["paired_standard_error"]',
        ("tests/report/test_claims.py::test_two_differences_to_isotropic_have_the_sum_of_their_errors_at_most",),
    ),
    Mutant(
        "optimal trajectories are compared with isotropic in print",
        "the difference to the even trajectory of the same variance",
        "ddpm_jax/report/printed.py",
        'keys = ("bits_per_dim", "standard_error", "minus_even", "minus_even_standard_error")',
        'keys = ("bits_per_dim", "standard_error", "minus_isotropic", "paired_standard_error")',
        ("tests/report/test_printed.py::test_an_optimal_trajectory_is_compared_with_the_even_one",),
    ),
    Mutant(
        "the radial error of the spectrum is the full table's",
        "the standard error of a radial average over images",
        "ddpm_jax/eval/curves.py",
        "moments.radial_error[t].ravel()[first]",
        "moments.spectrum_error[t].ravel()[first]",
        ("tests/eval/test_curves.py::test_the_spectrum_is_that_of_the_moments_bin_by_bin",),
    ),
    Mutant(
        "ours stands under another kernel's row",
        "published DDIM rows have nothing of ours beside them",
        "ddpm_jax/report/literature.py",
        "if row.kernel == KERNEL else None",
        "if row.kernel else None",
        ("tests/report/test_literature.py::test_another_kernel_and_what_was_not_measured_have_nothing_of_ours",),
    ),
    Mutant(
        "markers and colours repeat together",
        "distinct pairs of colour and marker",
        "ddpm_jax/report/chart.py",
        '"*", ">", "h", "d", "p")',
        '"*", ">", "h", "d", "p", "8")',
        ("tests/report/test_chart.py::test_far_more_variances_than_there_are_colours_can_be_told_apart",),
    ),
)
