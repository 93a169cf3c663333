"""Made-up results with plausible numbers: Gaussian data whose error M_t is known, one noisy copy for each split."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddpm_jax.diffusion import variances as reverse_variances
from ddpm_jax.report import page

T = 1000
K = (10, 25, 50, 100, 200, 400, 1000)
SAMPLE_K = (10, 25, 50)
VARIANCES = tuple(reverse_variances.VARIANCES)
OWN_CHAIN = "learned"  # has a bound at K = T alone, and no optimal trajectory
UNBOUNDED = "zero"
SAMPLED = tuple(name for name in VARIANCES if name != OWN_CHAIN)
CHOSEN = tuple(name for name in SAMPLED if name != UNBOUNDED)
HEADS = dict(npr=0.95, sn=1.6, ocm=0.93, learned=0.98, learned_range=0.97)  # KL over that of isotropic
KINDS = dict.fromkeys(VARIANCES, "fixed") | dict.fromkeys(HEADS, "trained")
KINDS |= dict.fromkeys(("analytic", "isotropic"), "measured") | dict.fromkeys(
    ("spectral", "spectral_radial"), "frequencies"
)
SPECTRUM = 16 / (1 + np.arange(64.0)) ** 2
ALPHA_BAR = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, T))])
PRIOR, DECODER = 0.02, 1.6
SHARE_OF_OPTIMAL = 0.55
TRAJECTORIES = ("even", "optimal", "optimal_free")


def chain(steps: int) -> dict[str, np.ndarray]:
    """Coefficients of the even chain, the step to s = 0 left out."""
    times = np.round(np.linspace(1, T, steps)).astype(int)
    s, t = ALPHA_BAR[times[:-1]], ALPHA_BAR[times[1:]]
    b = 1 - t / s
    tb = b * (1 - s) / (1 - t)
    return dict(t=times[1:], ab=t, a=t / s, b=b, tb=tb, u=b / tb * b / (t / s * (1 - t)))


def error(ab: np.ndarray) -> np.ndarray:
    """M_t of every direction of Gaussian data."""
    return ab[:, None] * SPECTRUM / (ab[:, None] * SPECTRUM + 1 - ab[:, None])


def variances(steps: int, split: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """sigma_t^2 and the KL terms, bits/dim, of every choice; a column of an array is a step."""
    c = chain(steps)
    M = error(c["ab"])
    mean = M.mean(1) * (1.002 if split == "test" else 1.0)
    excess = dict(small=0 * c["ab"], large=c["ab"], family=c["ab"] * 0.3 / (c["ab"] * 0.3 + 1 - c["ab"]))
    excess |= dict(analytic=0.97 * M.mean(1), isotropic=M.mean(1))
    choices = {name: c["tb"] * (1 + c["u"] * h) for name, h in excess.items()}
    choices["interpolated"] = np.sqrt(c["b"] * c["tb"])
    ratio = {name: c["tb"] / value for name, value in choices.items()}
    kl = {name: 0.5 * (r * (1 + c["u"] * mean) - 1 - np.log(r)) / np.log(2) for name, r in ratio.items()}
    binned = M.reshape(len(M), -1, 4).mean(axis=2)
    for name, spectrum in (("spectral", M), ("spectral_radial", binned)):
        kl[name] = 0.5 * np.mean(np.log1p(c["u"][:, None] * spectrum), axis=1) / np.log(2)
        choices[name] = c["tb"] * (1 + c["u"] * np.exp(np.mean(np.log(spectrum), axis=1)))
    for name, share in HEADS.items():
        if name != OWN_CHAIN or steps == T:
            kl[name] = share * kl["isotropic"]
            choices[name] = c["tb"] * (1 + share * c["u"] * M.mean(1))
    return choices, kl


def likelihood_rows() -> list[dict[str, Any]]:
    """A row for every split, trajectory, K and variance."""
    rows = []
    for split in ("calibration", "test"):
        for steps in K:
            kl = {name: float(terms.sum()) for name, terms in variances(steps, split)[1].items()}
            for trajectory in TRAJECTORIES:
                for name in VARIANCES if trajectory == "even" else CHOSEN:
                    if name in kl or name == UNBOUNDED:
                        row = dict(variance=name, trajectory=trajectory, K=steps, split=split)
                        rows.append(row | likelihood_numbers(kl, name, trajectory, steps))
    return rows


def likelihood_numbers(kl: dict[str, float], name: str, trajectory: str, steps: int) -> dict[str, float | None]:
    """The numbers of one row."""
    keys = ("prior", "decoder", "kl", "bits_per_dim", "standard_error", "minus_isotropic", "paired_standard_error")
    more = ("minus_even", "minus_even_standard_error") if trajectory != "even" else ()
    if name == UNBOUNDED:
        return dict.fromkeys((*keys, *more))
    share = 1.0 if trajectory == "even" or steps == T else SHARE_OF_OPTIMAL
    decoder = DECODER - 0.1 if trajectory == "optimal_free" else DECODER
    own, gap = share * kl[name], share * (kl[name] - kl["isotropic"])
    even_gap = own - kl[name] + decoder - DECODER
    values = (PRIOR, decoder, own, PRIOR + own + decoder, 0.01 * own, gap, 0.02 * abs(gap))
    return dict(zip((*keys, *more), (*values, even_gap, 0.02 * abs(even_gap)), strict=False))


def sample_rows() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Frechet distances of three seeds, and their mean and standard deviation."""
    rng = np.random.default_rng(0)
    samples, cells = [], []
    for trajectory, worse in (("even", 1.0), ("optimal", 1.4)):
        for steps in SAMPLE_K:
            scale = worse * (0.4 + (1 + (np.arange(len(SAMPLED)) - 4) ** 2) * 10 / steps)
            drawn = scale[:, None] * (1 + 0.05 * rng.standard_normal((len(SAMPLED), 3)))
            for name, values in zip(SAMPLED, drawn, strict=True):
                cell = dict(variance=name, trajectory=trajectory, K=steps)
                samples += [cell | dict(seed=seed, frechet=float(value)) for seed, value in enumerate(values)]
                cells.append(cell | sample_numbers(values, values - drawn[SAMPLED.index("isotropic")], name))
    return samples, cells


def sample_numbers(values: np.ndarray, above: np.ndarray, name: str) -> dict[str, Any]:
    """Mean and standard deviation over seeds of distances and of their differences to isotropic."""
    numbers = dict(mean=float(values.mean()), std=float(values.std(ddof=1)), seeds=len(values), images=5000)
    if name == "isotropic":
        return numbers | dict(minus_isotropic=None, minus_isotropic_std=None)
    return numbers | dict(minus_isotropic=float(above.mean()), minus_isotropic_std=float(above.std(ddof=1)))


def terms() -> list[dict[str, Any]]:
    """The KL term of every step of a short chain and of the longest, bits/dim."""
    entries = []
    for steps in (K[0], K[-1]):
        kl = variances(steps, "test")[1]
        choices = {name: dict(kl=kl[name], standard_error=0.03 * kl[name]) for name in VARIANCES if name in kl}
        listed = {name: {key: terms.tolist() for key, terms in choice.items()} for name, choice in choices.items()}
        entries.append(dict(K=steps, t=chain(steps)["t"].tolist(), choices=listed))
    return entries


def rate_distortion() -> dict[str, Any]:
    """RMSE of x_0_hat of the Gaussian data, and the bits sent once x_t is known."""
    c, kl = chain(T), variances(T, "test")[1]
    rmse = 127.5 * np.sqrt((1 - c["ab"]) / c["ab"] * error(c["ab"]).mean(1))
    sent = {name: PRIOR + np.cumsum(kl[name][::-1])[::-1] - kl[name] for name in VARIANCES if name in kl}
    choices = {name: rate.tolist() for name, rate in sent.items()}
    return dict(K=T, t=c["t"].tolist(), distortion=rmse.tolist(), choices=choices)


def spread(likelihood: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The test rows again, over two networks whose bounds are 0.02 bits/dim apart; samples of the even trajectory."""
    rows: list[dict[str, Any]] = []
    for row in likelihood:
        if row["split"] != "test" or row["K"] not in SAMPLE_K:
            continue
        cell = {key: row[key] for key in ("variance", "trajectory", "K")}
        bits, gap, known = row["bits_per_dim"], row["minus_isotropic"], row["bits_per_dim"] is not None
        values = [bits - 0.01, bits + 0.01] if known else [None, None]
        cell |= dict(mean=bits, std=0.02 / np.sqrt(2) if known else None, values=values)
        cell |= dict(minus_isotropic=gap, minus_isotropic_std=0.01 * abs(gap) if known else None)
        sampled = row["trajectory"] == "even"
        cell |= dict(
            frechet_mean=(30.0 + len(rows) % len(VARIANCES)) / row["K"] if sampled else None,
            frechet_std=0.2 if sampled else None,
        )
        rows.append(cell)
    return rows


def per_time() -> dict[str, list[float]]:
    """M_t, 1 - Gamma_t and c_eff at every t."""
    ab = ALPHA_BAR[1:]
    M = error(ab).mean(1)
    noise = 0.002 * np.random.default_rng(1).standard_normal(T)
    columns = dict(t=np.arange(1, T + 1), error=M, error_standard_error=0.02 * M, excess=0.97 * M + noise)
    columns |= dict(excess_standard_error=0 * M + 0.002, c_eff=(1 - ab) * M / (ab * (1 - M)), clamped_share=0 * M)
    return {name: column.tolist() for name, column in columns.items()}


def sigma2() -> dict[str, Any]:
    """The variances of an even chain of ten steps, between their bounds."""
    c = chain(10)
    choices = {name: values.tolist() for name, values in variances(10, "test")[0].items()}
    choices[OWN_CHAIN] = [float("nan")] * 9
    bounds = dict(lower=c["tb"].tolist(), beta=c["b"].tolist(), upper=(c["b"] / c["a"]).tolist())
    return dict(K=10, t=c["t"].tolist(), choices=choices, **bounds)


def settings() -> dict[str, Any]:
    """Everything in the results that is not a measurement of a variance."""
    data = dict(name="digits", description="8x8 handwritten digits", shape=[8, 8, 1], levels=17, variance=0.2815)
    data |= dict(train=1000, calibration=400, test=397)
    loss = [[step, 0.08 + 0.9 / (1 + step / 50)] for step in range(1, 3000, 25)]
    training = dict(steps=3000, parameters=295_123, loss=loss)
    classifier = dict(name="logistic", features=64, test_accuracy=0.971, train_accuracy=0.999, bias=0.051)
    classifier |= dict(held_out_frechet=0.42, held_out_images=397)
    measure = dict(features="a perceptron 0123", preparation="grey levels over 16", rounding="nearest")
    classifier["measure"] = measure | dict(reference="digits, 4567", n=300)
    memorising = dict(K=1000, train_bits_per_dim=2.011, test_bits_per_dim=2.052, gap=0.041, gap_standard_error=0.012)
    rules = dict(last_step="mean", pixel_clip=None, levels=17, clip_x_0=True, clamp_cov=True, decoder="shared")
    heads = dict(heads=list(HEADS), size="narrow", chain=None, fit_clip_x_0=True, head_steps=2000, head_batch=128)
    config = dict(seed=0, schedule=dict(name="linear", T=T), protocol="analytic-dpm", heads=heads)
    network = dict(source="trained", name="runs/digits", heads=list(HEADS))
    return dict(
        data=data, training=training, training_seeds=[0, 1], network=network,
        classifier=classifier, rules=rules, config=config,
        memorising=memorising | dict(train_images=1000),
    )  # fmt: skip


def evaluations() -> dict[str, Any]:
    """Network evaluations, as if all were measured at every time but the training images."""
    full = dict(calibration=400 * T, test=397 * T, train=1000 * T)
    cells = {(row["variance"], row["trajectory"], row["K"]) for row in likelihood_rows() if row["kl"] is not None}
    alone = 397 * sum(K for *_, K in cells)
    return dict(counted=full | dict(train=1000 * 50), one_pass=full, cells=len(cells), one_cell_at_a_time=alone)


def clamped() -> dict[str, list[float | None]]:
    """Shares at every t: of `sn` a half at small t, of `npr` unknown at t = 1, of the others nothing."""
    none: list[float | None] = [0.0] * T
    return {name: none for name, kind in KINDS.items() if kind in ("frequencies", "trained")} | dict(
        sn=[0.5 if t < 200 else 0.0 for t in range(T)], npr=[None, *none[1:]]
    )


def spectrum() -> dict[str, Any]:
    """M_{t,j} that falls with the frequency, at two times and along one colour axis."""
    radius = list(range(11))
    rows = []
    for t in (50, 300):
        mean = [1 / (1 + 0.1 * t / 50 * r) for r in radius]
        rows.append(dict(t=t, axis=0, radius=radius, mean=mean, standard_error=[0.05 * value for value in mean]))
    return dict(rows=rows, noise=[dict(t=50, full=0.07, radial=0.031), dict(t=300, full=0.071, radial=0.029)])


@pytest.fixture(scope="session")
def made_up() -> dict[str, Any]:
    """Results in which every claim holds."""
    likelihood = likelihood_rows()
    bits = {(row["variance"], row["K"]): row["bits_per_dim"] for row in likelihood
            if (row["split"], row["trajectory"]) == ("test", "even")}  # fmt: skip
    samples, cells = sample_rows()
    even = {k: np.round(np.linspace(1, T, k)).astype(int).tolist() for k in K}
    times = {str(k): {"even": even[k]} | dict.fromkeys(CHOSEN, np.geomspace(1, T, k).tolist()) for k in K}
    control = [dict(K=k, large=bits["large", k], scaled=bits["large", k] + 0.2, difference=0.2) for k in K]
    gap = bits["large", T] - bits["isotropic", T]
    return settings() | dict(
        K=list(K), sample_K=list(SAMPLE_K), variances=list(VARIANCES), trajectories=list(TRAJECTORIES), kinds=KINDS,
        likelihood=likelihood, samples=samples, sample_cells=cells, per_time=per_time(), sigma2=sigma2(),
        trajectories_chosen=times, negative_control=[row | dict(paired_standard_error=0.01) for row in control],
        gap_check=dict(K=T, from_table=gap, from_formula=gap + 1e-5), claims=[],
        evaluations=evaluations(), clamped=clamped(), spectrum=spectrum(),
        terms=terms(), rate_distortion=rate_distortion(), spread=spread(likelihood),
    )  # fmt: skip


@pytest.fixture
def results(made_up: dict[str, Any]) -> dict[str, Any]:
    """A copy that a test may change."""
    return copy.deepcopy(made_up)


@pytest.fixture(scope="session")
def run() -> dict[str, Any]:
    """The machine, the seconds, and what an earlier run had left."""
    seconds = dict(train=101.5, moments=20.1, likelihood=3.2, sample=60.7, total=185.5)
    about = dict(project="ddpm_jax", version="0.1.0", command="ddpm-jax ablate")
    about |= dict(date="2026-01-01", python="3.11.9", jax="0.10.2", device="cpu")
    cells = dict(moments=dict(computed=3, reused=0), trajectories=dict(computed=0, reused=56))
    cells |= dict(samples=dict(computed=5, reused=67))
    return dict(about=about | dict(seconds=seconds, images_per_second=4321.0), cells=cells, forced=False)


@pytest.fixture(scope="session")
def pictures() -> dict[str, np.ndarray]:
    """Grey 8x8 images of noise."""
    rng = np.random.default_rng(2)
    shapes = dict(grid=(len(SAMPLED), 10), grid_real=(10,), strip=(4, 10), neighbours=(8, 2))
    images = {name: rng.integers(0, 256, (*shape, 8, 8, 1), dtype=np.uint8) for name, shape in shapes.items()}
    images["grid_names"] = np.asarray(SAMPLED)
    return images | dict(strip_t=np.linspace(T, 1, 10).round().astype(int), neighbours_distance=np.linspace(1, 2, 8))


@pytest.fixture(scope="session")
def judged(made_up: dict[str, Any]) -> dict[str, Any]:
    """The results with one claim of each verdict."""
    sentence = "`large` is <b>exact</b>."
    return made_up | dict(
        claims=[dict(claim=sentence, split="test", holds=holds, figures="apart 0.5") for holds in (True, False, None)]
    )


@pytest.fixture(scope="session")
def written(
    tmp_path_factory: pytest.TempPathFactory, judged: dict[str, Any], run: dict[str, Any], pictures: dict[str, Any]
) -> Path:
    """The folder of their page."""
    folder = tmp_path_factory.mktemp("page")
    page.write(folder, judged, run, pictures)
    return folder


@pytest.fixture(scope="session")
def html(written: Path) -> str:
    """The text of that page."""
    return (written / "report.html").read_text(encoding="utf-8")
