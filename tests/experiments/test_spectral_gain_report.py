"""What the experiment on spectral variances prints and draws, from results made by hand."""

import pytest

from experiments import spectral_gain_report


def row(name, path, K, gain, error=0.01):
    total = 4.0 - gain
    known = dict(variance=name, trajectory=path, K=K, bits_per_dim=total, standard_error=0.2, kl=total - 1)
    return known | dict(minus_isotropic=-gain, paired_standard_error=0.0 if name == "isotropic" else error)


def network(gain, name="photos"):
    rows = [row("isotropic", path, K, 0.0) for path in ("even", "optimal") for K in (10, 25)]
    rows += [row("radial", path, K, gain) for path in ("even", "optimal") for K in (10, 25)]
    rows += [row("radial, 4 images", "even", K, gain / 2) for K in (10, 25)]
    noise = [dict(t=t, full=0.25, radial=0.0625) for t in (5, 50)]
    spectra = [
        dict(t=t, axis=axis, radius=[0.0, 1.0], mean=[0.5, 0.1], standard_error=[0.1, 0.01])
        for t in (5, 50)
        for axis in (0, 1, 2)
    ]
    return dict(
        data=dict(name=name, description="Made up"),
        training=dict(parameters=12345, steps=2000, batch=64),
        images=256,
        variances=["isotropic", "radial", "radial, 4 images"],
        rows=rows,
        spectrum=dict(rows=spectra, noise=noise),
    )


RESULTS = dict(K=[10, 25], networks=[network(0.4), network(0.01, "strokes"), network(-0.3, "noise")])


def test_every_number_stands_in_the_tables() -> None:
    text = spectral_gain_report.text(RESULTS)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["even", "isotropic", "4.00 ± 0.20", "4.00 ± 0.20"] in cells
    assert ["even", "its KL terms", "3.000", "3.000"] in cells
    assert ["optimal", "radial", "−0.400 ± 0.010", "−0.400 ± 0.010"] in cells
    assert ["even", "radial, 4 images", "−0.200 ± 0.010", "−0.200 ± 0.010"] in cells
    assert not any(line[:2] == ["optimal", "radial, 4 images"] for line in cells)
    assert ["M of one frequency", "25.0 %", "25.0 %"] in cells
    assert ["mean over a radius", "6.2 %", "6.2 %"] in cells
    assert "A U-Net of 12,345 parameters, 2,000 steps of batch 64. 256 calibration images" in text


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (0.4, "photos, K = 10: radial saves 0.400 ± 0.010, radial, 4 images saves 0.200 ± 0.010 bits/dim"),
        (0.021, "photos, K = 10: radial saves 0.021 ± 0.010 bits/dim"),
        (0.019, "photos, K = 10: nothing saves more than 2 standard errors"),
        (-0.3, "photos, K = 10: nothing saves more than 2 standard errors"),
    ],
)
def test_it_pays_where_the_gain_is_more_than_two_standard_errors(gain: float, words: str) -> None:
    assert spectral_gain_report.verdict(network(gain), 10) == words


def test_there_are_two_figures_a_network_with_every_curve_that_has_a_number() -> None:
    figures = spectral_gain_report.pictures(RESULTS)
    assert set(figures) == {
        f"{kind}-{name}" for kind in ("gain", "spectrum") for name in ("photos", "strokes", "noise")
    }
    even, optimal = figures["gain-photos"].axes
    assert [text for _, text in zip(*even.get_legend_handles_labels(), strict=True)] == ["radial", "radial, 4 images"]
    assert [text for _, text in zip(*optimal.get_legend_handles_labels(), strict=True)] == ["radial"]
    line = even.get_legend_handles_labels()[0][0].lines[0]
    assert line.get_ydata() == pytest.approx([0.4, 0.4])
    assert len(figures["spectrum-photos"].axes) == 3
