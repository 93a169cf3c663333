"""What `experiments.spectral_gain` prints and draws, from its results."""

from itertools import cycle, product

from matplotlib.figure import Figure

from ddpm_jax.report import charts, figures, tables
from ddpm_jax.report.charts import COLOURS, MARKERS, Curve
from ddpm_jax.report.lookup import REFERENCE, Results, Row
from ddpm_jax.report.tables import MISSING, measured, number

HEIGHT = 4.8
PAYS = 2.0  # standard errors


def _cells(network: Row) -> dict[tuple[str, str, int], Row]:
    return {(row["variance"], row["trajectory"], row["K"]): row for row in network["rows"]}


def _trajectories(network: Row) -> list[str]:
    return list(dict.fromkeys(row["trajectory"] for row in network["rows"]))


def _table(network: Row, Ks: list[int]) -> str:
    """bits/dim of isotropic, its KL sum, and what every other variance saves or loses against it."""
    cells, lines = _cells(network), []
    for path in _trajectories(network):
        known = [cells[REFERENCE, path, K] for K in Ks]
        totals = [measured(row["bits_per_dim"], row["standard_error"]) for row in known]
        lines.append([path, REFERENCE, *totals])
        lines.append([path, "its KL terms", *(number(row["kl"]) for row in known)])
        for name in network["variances"]:
            others = [cells.get((name, path, K)) for K in Ks]
            if name != REFERENCE and any(others):
                words = [
                    measured(row["minus_isotropic"], row["paired_standard_error"], "+") if row else MISSING
                    for row in others
                ]
                lines.append([path, name, *words])
    return tables.markdown_table(["trajectory", "variance", *(f"K = {K}" for K in Ks)], lines)


def _noise(network: Row) -> str:
    """How much of the measured spectrum is noise."""
    known = network["spectrum"]["noise"]
    header = ["median relative standard error", *(f"t = {row['t']}" for row in known)]
    names = {"full": "M of one frequency", "radial": "mean over a radius"}
    rows = [[word, *(f"{100 * row[key]:.1f} %" for row in known)] for key, word in names.items()]
    return tables.markdown_table(header, rows)


def verdict(network: Row, K: int) -> str:
    """Which variances pay on the even chain of K steps: less than isotropic by PAYS paired standard errors."""
    cells, words = _cells(network), []
    for name in network["variances"]:
        row = cells[name, "even", K]
        gain, error = row["minus_isotropic"], row["paired_standard_error"]
        if name != REFERENCE and gain < -PAYS * error:
            words.append(f"{name} saves {measured(-gain, error)}")
    found = f"{', '.join(words)} bits/dim" if words else f"nothing saves more than {PAYS:g} standard errors"
    return f"{network['data']['name']}, K = {K}: {found}"


def _section(network: Row, Ks: list[int]) -> str:
    data, training = network["data"], network["training"]
    return (
        f"## {data['name']}\n\n"
        f"{data['description']}. A U-Net of {training['parameters']:,} parameters, {training['steps']:,} steps of "
        f"batch {training['batch']}. {network['images']} calibration images fix the variances, as many test images "
        f"judge them. bits/dim; below isotropic the differences to it.\n\n"
        f"{_table(network, Ks)}\n{_noise(network)}"
    )


def text(results: Results) -> str:
    """A section a network, and which of them gain."""
    sections = [_section(network, results["K"]) for network in results["networks"]]
    verdicts = [f"- {verdict(network, K)}" for network, K in product(results["networks"], results["K"])]
    return "\n".join(sections) + "\n## For which images it pays\n\n" + "\n".join(verdicts) + "\n"


def _gains(network: Row, Ks: list[int], panel: int, path: str) -> list[Curve]:
    """What every variance saves against isotropic; those fixed by fewer images on the even chain alone."""
    cells, curves = _cells(network), []
    for name, colour, marker in zip(network["variances"], cycle(COLOURS), cycle(MARKERS), strict=False):
        rows = [cells.get((name, path, K), {}) for K in Ks]
        if name != REFERENCE:
            gain = -charts.numbers(row.get("minus_isotropic") for row in rows)
            error = charts.numbers(row.get("paired_standard_error") for row in rows)
            style = dict(kind="bars", color=colour, marker=marker, markersize=6, markerfacecolor="none", linewidth=1.2)
            curves.append(Curve(name, panel, charts.numbers(Ks), gain, error, [f"K = {K}" for K in Ks], style))
    return curves


def gain(network: Row, Ks: list[int]) -> Figure:
    """The gain against the number of steps, a panel a trajectory."""
    paths = _trajectories(network)
    figure = charts.panels([f"{network['data']['name']}, {path} trajectory" for path in paths], HEIGHT)
    drawn = charts.draw(figure, [curve for i, path in enumerate(paths) for curve in _gains(network, Ks, i, path)])
    for axis in figure.axes:
        axis.set(xscale="log", xlabel="steps K")
        axis.axhline(0.0, color=charts.LIGHT["ink"], linestyle="--", linewidth=1.0)
        charts.log_ticks(axis.xaxis, Ks)
    figure.axes[0].set_ylabel(f"bits/dim saved against {REFERENCE}")
    charts.add_legend(drawn, columns=3)
    return figure


def spectra(network: Row) -> Figure:
    """M_{t,j} against the radius."""
    drawn = figures.spectrum(network)
    assert drawn is not None
    charts.add_legend(drawn)
    return drawn.figure


def pictures(results: Results) -> dict[str, Figure]:
    """Both figures of every network, by the name of their file."""
    found = {}
    for network in results["networks"]:
        name = network["data"]["name"]
        found[f"gain-{name}"] = gain(network, results["K"])
        found[f"spectrum-{name}"] = spectra(network)
    return found
