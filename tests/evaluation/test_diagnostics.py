"""What the figures draw: functions of t, against sums and closed forms."""

import numpy as np
import pytest

from ddpm_jax.diffusion import process, timesteps, variances
from ddpm_jax.evaluation import diagnostics, likelihood
from tests.evaluation.conftest import NAMES, OWN_CHAIN, SCHEDULE, defined, noisy_moments, one_number, predicted


def test_clamped_times_are_counted() -> None:
    moments = noisy_moments(0)
    moments.excess[:, 1:] = 0.5 * SCHEDULE.alpha_bar[1:] / SCHEDULE.one_minus_alpha_bar[1:]
    moments.excess[:, 3], moments.excess[:, 7] = -0.1, 1e3
    row = diagnostics.per_time(SCHEDULE, moments, clamp_cov=True)
    assert [t for t, share in zip(row["t"], row["clamped_share"], strict=True) if share] == [3, 7]
    assert sum(diagnostics.per_time(SCHEDULE, moments, clamp_cov=False)["clamped_share"]) == 0
    assert row["error"] == pytest.approx(moments.error[:, 1:].mean(axis=0))


def test_all_but_zero_lie_on_the_chart_between_the_bounds(choices: likelihood.Choices) -> None:
    test = noisy_moments(1)
    chart = diagnostics.between_the_bounds(choices, 10, test)
    assert set(chart["choices"]) == set(NAMES) - {"zero"}
    assert set(diagnostics.between_the_bounds(choices, 5, test)["choices"]) == set(NAMES) - {"zero", "learned"}
    assert len(chart["t"]) == 9
    for name in ("small", "large", "family", "analytic"):
        found = np.array(chart["choices"][name])
        assert (found >= np.array(chart["lower"]) * (1 - 1e-9)).all()
        assert (found <= np.array(chart["upper"]) * (1 + 1e-9)).all()


def test_of_a_choice_that_looks_at_x_t_the_chart_has_the_geometric_mean(choices: likelihood.Choices) -> None:
    """log sigma^2 is asked for directly at the same x_t; between the nodes log(sigma^2/base) is interpolated by lines,
    which err by a quarter of a spacing's bend at most.
    """
    test, steps = noisy_moments(1), process.steps(SCHEDULE, list(OWN_CHAIN))
    chart = diagnostics.between_the_bounds(choices, 10, test)["choices"]
    heads = [name for name, choice in choices.variances.items() if not choice.headless]
    for k in (1, 5, 9):
        x_t, prediction = predicted(1, OWN_CHAIN[k])
        step = process.Steps(*(column[k] for column in steps))
        for name in heads:
            direct = float(np.mean(choices.variances[name].log_var(step, x_t, prediction)))
            assert np.log(chart[name][k - 1]) == pytest.approx(direct, abs=5e-3)
    spectral = variances.table(choices.variances["spectral"], steps)[1:]
    assert chart["spectral"] == pytest.approx(np.exp(spectral.mean(axis=(1, 2, 3))))


def test_without_its_table_a_choice_has_no_place_on_the_chart(choices: likelihood.Choices) -> None:
    chart = diagnostics.between_the_bounds(choices, 10, noisy_moments(1)._replace(tables={}))["choices"]
    assert np.isnan(chart["npr"]).all()
    assert np.isfinite(chart["spectral"]).all()


def test_the_terms_of_a_chain_add_up_to_its_kl(choices: likelihood.Choices) -> None:
    test = noisy_moments(1)
    for entry in diagnostics.terms(choices, test, [5, 60]):
        steps = process.steps(SCHEDULE, timesteps.even(60, entry["K"]))
        assert entry["t"] == steps.t[1:].tolist()
        assert set(entry["choices"]) == {name for name in NAMES if defined(choices, name, steps.t)}
        for name, row in entry["choices"].items():
            bound = likelihood.bits_per_dim(steps, choices.variances[name], test, test.tables.get(name))
            assert sum(row["kl"]) == pytest.approx(bound.kl)
            assert all(error > 0 for error in row["standard_error"])


def test_a_single_term_is_the_closed_form_of_small(choices: likelihood.Choices) -> None:
    test = noisy_moments(1)
    (entry,) = diagnostics.terms(choices, test, [60])
    snr = SCHEDULE.alpha_bar[1:] / SCHEDULE.one_minus_alpha_bar[1:]
    for t in (2, 30, 60):
        u = snr[t - 2] / snr[t - 1] - 1
        wanted = 0.5 * u * test.error[:, t] / np.log(2)
        assert entry["choices"]["small"]["kl"][t - 2] == pytest.approx(wanted.mean())
        assert entry["choices"]["small"]["standard_error"][t - 2] == pytest.approx(wanted.std(ddof=1) / np.sqrt(40))


def test_the_rate_is_what_has_been_sent_and_the_distortion_what_x_0_hat_lacks(choices: likelihood.Choices) -> None:
    test = noisy_moments(1)
    row = diagnostics.rate_distortion(choices, test, 10)
    steps = process.steps(SCHEDULE, timesteps.even(60, 10))
    bound = likelihood.bits_per_dim(steps, choices.variances["isotropic"], test)
    rate = row["choices"]["isotropic"]
    assert row["t"] == steps.t.tolist()
    assert rate[-1] == pytest.approx(bound.prior)
    assert rate[0] == pytest.approx(bound.prior + bound.kl)
    assert rate == sorted(rate, reverse=True)
    for t, distortion in zip(row["t"], row["distortion"], strict=True):
        ab = SCHEDULE.alpha_bar[t]
        assert distortion == pytest.approx(127.5 * np.sqrt((1 - ab) / ab * test.error[:, t].mean()))


def test_evaluations_are_counted_and_one_cell_at_a_time_takes_every_step_of_every_cell(
    choices: likelihood.Choices,
) -> None:
    """40 images x 60 times a split; cells: the bounds of the table, and of each K evaluations an image."""
    row = diagnostics.evaluations(choices, {"calibration": noisy_moments(0), "test": noisy_moments(1)})
    assert row["counted"] == row["one_pass"] == {"calibration": 2400, "test": 2400}
    free = len(NAMES) - len({"zero", "learned"})
    assert row["cells"] == free * 3 * 4 + 1
    assert row["one_cell_at_a_time"] == 40 * (free * 3 * (2 + 5 + 10 + 60) + 10)


def test_the_clamped_share_is_that_of_the_estimates_that_were_moved(choices: likelihood.Choices) -> None:
    test = noisy_moments(1)
    found = diagnostics.clamped(test)
    assert set(found) == set(NAMES) - set(one_number(choices.calibration))
    assert found == {name: table.clamped[1:].tolist() for name, table in test.tables.items()}


def test_the_spectrum_is_that_of_the_moments_bin_by_bin() -> None:
    """Made-up moments of 8 x 6 pixels and two colour axes; every radial mean is taken once more in a loop."""
    draw = np.random.default_rng(3)
    full, error = draw.uniform(0.5, 1.5, (2, 41, 8, 6, 2))
    bins = np.round(np.hypot(*np.meshgrid(np.arange(8), np.arange(6) * 8 / 6, indexing="ij")))
    radial_error = np.stack([np.where(bins == r, r + 1.0, 0) for r in range(20)]).sum(axis=0)
    radial_error = np.broadcast_to(radial_error[None, :, :, None] * [1.0, 2.0], full.shape)
    moments = noisy_moments(0)._replace(spectrum=full, spectrum_error=error, radial_error=radial_error)
    found = diagnostics.spectrum(moments)
    assert found is not None
    times = [each["t"] for each in found["noise"]]
    assert times == [2, 4, 12, 24]
    assert [(row["t"], row["axis"]) for row in found["rows"]] == [(t, axis) for t in times for axis in (0, 1)]
    for row in found["rows"]:
        table = full[row["t"], ..., row["axis"]]
        assert row["radius"] == np.unique(bins).tolist()
        assert row["mean"] == pytest.approx([table[bins == radius].mean() for radius in row["radius"]])
        assert row["standard_error"] == pytest.approx([(r + 1) * (row["axis"] + 1) for r in row["radius"]])
    for each in found["noise"]:
        assert each["full"] == pytest.approx(np.median(error[each["t"]] / full[each["t"]]))
        rows = [row for row in found["rows"] if row["t"] == each["t"]]
        relative = [e / m for row in rows for e, m in zip(row["standard_error"], row["mean"], strict=True)]
        assert each["radial"] == pytest.approx(np.median(relative))


def test_without_a_spectrum_there_is_none_to_show() -> None:
    assert diagnostics.spectrum(noisy_moments(0)._replace(spectrum=None)) is None


def test_every_variance_is_called_by_what_fixes_it(choices: likelihood.Choices) -> None:
    kinds = diagnostics.kinds(choices)
    assert list(kinds) == list(choices.variances)
    assert {name for name, kind in kinds.items() if kind == "trained"} == {
        name for name, choice in choices.variances.items() if choice.heads
    }
    assert [kinds[name] for name in ("small", "family", "zero")] == ["fixed"] * 3
    numbers = choices._replace(variances=dict.fromkeys(["interpolated:0.2", "learned_range:clamped", "family:4"]))
    assert list(diagnostics.kinds(numbers).values()) == ["fixed", "trained", "fixed"]
    assert [kinds[name] for name in ("analytic", "isotropic")] == ["measured"] * 2
    assert [kinds[name] for name in ("spectral", "spectral_radial")] == ["frequencies"] * 2
