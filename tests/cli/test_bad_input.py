"""Bad input: one line that names the value and the cure, exit code 2, and nothing written."""

import errno
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddpm_jax.data import datasets
from ddpm_jax.diffusion import schedules
from ddpm_jax.diffusion.conventions import Rules
from ddpm_jax.diffusion.denoiser import Prediction
from ddpm_jax.evaluation import moments
from ddpm_jax.models import unet
from ddpm_jax.report import page
from tests.cli.conftest import TRAINING, few_digits, make_small, run
from tests.models.test_unet import LEAST

FEW = ["--K", "3", "--sample-K", "3", "--images", "4", "--seeds", "1", "--variances", "large", "isotropic"]
HERE = "tests.cli.test_bad_input"
RULES = Rules(levels=17)


def cropped(x_t, t):
    return x_t[:, :4]


def integers(x_t, t):
    return jnp.zeros(x_t.shape, int)


def fails(x_t, t):
    raise AttributeError


def infinite(x_t, t):
    return x_t / (t - 1)[:, None, None, None]


def whole(x_t, t):
    return x_t


def silent(x_t, t):
    return Prediction(0 * x_t, x_t)


@pytest.fixture(scope="session")
def places(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders and files that the cases name."""
    root = tmp_path_factory.mktemp("places")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        patch.setattr(page, "write", lambda *parts: None)  # no case looks at it
        least = ["--K", "1", "--sample-K", "1", "--images", "2", "--seeds", "1", "--variances", "zero"]
        run("ablate", "--denoiser", f"{HERE}:whole", "--T", "30", *least, "--workdir", str(root / "own"))
    shutil.copytree(trained, root / "other")
    measured = moments.measure(
        jax.random.key(0), schedules.linear(30), silent, few_digits().calibration.images[:2], RULES
    )
    moments.save(root / "other" / "moments.npz", measured, "another", RULES)
    shutil.copyfile(root / "own" / "results.json", root / "other" / "results.json")
    (root / "file").write_text("a file\n")
    (root / "foreign").mkdir()
    (root / "foreign" / "results.json").write_text("[1, 2]\n")
    names = ("other", "own", "file", "foreign", "new")
    return {"trained": trained, **{name: root / name for name in names}, "root": root}


def loud() -> datasets.DataSet:
    return few_digits()._replace(levels=16)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(unet.PRESETS, "deep", replace(LEAST, multipliers=(1, 1, 1, 1, 1)))
    monkeypatch.setitem(unet.PRESETS, "wider", replace(LEAST, channels=2 * LEAST.channels))
    monkeypatch.setitem(datasets.DATASETS, "loud", loud)


TRAIN = [
    ("--data digit", "unknown data set 'digit': choose one of digits"),
    ("--data loud", "grey level 16, outside [-1, 1] with 16 levels: give it 17"),
    ("--preset huge", "unknown preset 'huge': choose one of cifar10, celebahq256, digits"),
    ("--preset deep", "8"),
    (
        "--preset cifar10 --data digits",
        "preset 'cifar10' is for 3-channel images and digits has 1: choose another preset",
    ),
    ("--schedule lin", "unknown schedule 'lin': choose one of linear, cosine"),
    ("--prediction score", "unknown prediction 'score': choose one of eps, x_0, v"),
    ("--objective elbo", "unknown objective 'elbo': choose one of simple, mu_mse, vlb, hybrid"),
    ("--variance learned_range", "objective 'simple' does not train the head of the variance: choose vlb or hybrid"),
    ("--objective hybrid", "objective 'hybrid' trains the head of a variance and this one has none"),
    ("--objective vlb --variance isotropic", "variance 'isotropic' is fixed after training: leave it out of the loss"),
    ("--objective vlb --variance zero", "has no likelihood bound: choose another --variance"),
    ("--objective vlb --variance larg", "unknown variance 'larg': choose one of small, large"),
    ("--learning-rate 0", "learning_rate = 0: it must be positive"),
    ("--variance small", "variance 'small' has no effect on objective 'simple': leave it out"),
    ("--objective vlb --weighting min_snr", "weighting 'min_snr' has no effect on objective 'vlb': leave it out"),
    ("--weighting snr", "unknown weighting 'snr': choose one of uniform, min_snr, truncated_snr"),
    ("--time-sampler even", "unknown time sampler 'even': choose one of uniform, antithetic, loss_second_moment"),
    ("--parallel pjit", "unknown parallel 'pjit': choose one of pmap, shard_map"),
    ("--T 10", "outside (0, 1): lower it"),
    ("--T 0", "T = 0: a schedule has at least one time"),
    ("--schedule jsd", "prediction 'eps' needs alpha_bar_T > 0 and this schedule has 0: choose x_0 or v"),
    ("--schedule linear_zero_terminal", "prediction 'eps' needs alpha_bar_T > 0"),
    ("--steps 0", "steps = 0: it is at least 1"),
    ("--batch 0", "batch = 0: it is at least 1"),
    ("--seed -1", "seed = -1: it is at least 0"),
    ("--batch 9 --microbatches 2", "batch 9 does not split over 1 device and 2 microbatches: choose a multiple of 2"),
    ("--workdir {file}/deep", "{file} is a file; choose another folder"),
    ("--workdir {trained} --seed 1", "holds a run with seed = 0, not 1: choose another --workdir"),
    ("--workdir {trained} --schedule cosine", "holds a run with schedule = linear, not cosine"),
    ("--workdir {trained} --preset wider", "not {'channels'"),
    ("--workdir {trained} --steps 3", "holds a run of 4 steps, more than steps = 3"),
    ("--workdir {trained} --ema-decay 0.5", "ema_decay = [0.998], not [0.5]"),
    ("--workdir {trained} --optimizer sgd --seed 1", "a run with optimizer = adam, not sgd, seed = 0, not 1: choose"),
    ("--optimizer lion", "unknown optimizer 'lion': choose one of adam, adamw, lookahead, sgd"),
    ("--rate-schedule step", "unknown rate_schedule 'step': choose one of constant, cosine, linear"),
    ("--rate-schedule cosine", "warmup = 100 leaves nothing of steps = 4: make it shorter"),
    ("--clip-norm 0", "clip_norm = 0: it must be positive"),
    ("--warmup -1", "warmup = -1: it is at least 0"),
    ("--weight-decay 0.1", "weight_decay has no effect on optimizer 'adam': leave it out"),
    ("--optimizer adamw --weight-decay -1", "weight_decay = -1: it is at least 0"),
    ("--slow-period 3", "slow_period has no effect on optimizer 'adam': leave it out"),
    ("--optimizer lookahead --slow-period 0", "slow_period = 0: it is at least 1"),
    ("--optimizer lookahead --slow-step 2", "slow_step = 2: it lies above 0 and is at most 1"),
    ("--ema-decay 1", "ema_decay = (1.0,): give one rate or more, each once, from 0 to below 1"),
    ("--ema-decay 0.9 0.9", "each once"),
    ("--activations float16", "activations 'float16': choose float32 or bfloat16"),
    ("--microbatches 0", "microbatches = 0: it is at least 1"),
    ("--microbatches 3", "batch 8 does not split over 1 device and 3 microbatches: choose a multiple of 3"),
    ("--steps-per-call 0", "steps_per_call = 0: it is at least 1"),
    ("--log-every 0", "log_every = 0: it is at least 1"),
    ("--save-every 0", "save_every = 0: it is at least 1"),
    ("--keep 0", "keep = 0: it is at least 1"),
    ("--keep-every -1", "keep_every = -1: it is at least 0"),
    ("--keep-best -1", "keep_best = -1: it is at least 0"),
    ("--sample-every -1", "sample_every = -1: it is at least 0"),
    ("--profile 3 2", "profile = 3 2: give the first and the last step, from 1"),
    ("--wandb variances", "wandb = 'variances': Weights & Biases is not installed: pip install wandb"),
    ("--data ./nowhere", "nowhere"),
    ("--data nowhere.npz", "nowhere.npz"),
    ("--data lsun/bedroom", "download_and_prepare(file_format='array_record')"),
    ("--image-size 16", "16"),
    ("--image-size 0", "0"),
    ("--coordinator localhost:1", "processes, process: missing; give coordinator, processes and process together"),
    ("--processes 2", "coordinator, process: missing"),
    ("--processes 2 --dry-run", "coordinator, process: missing"),
    ("--coordinator localhost --processes 2 --process 0", "coordinator = 'localhost': give host:port of process 0"),
    ("--coordinator localhost:1 --processes 2 --process 2", "process = 2 of processes = 2: it lies in 0..1"),
]
SAMPLE = [
    ("--variance smal", "unknown variance 'smal': choose one of small, large"),
    ("--sampler ddmi", "unknown sampler 'ddmi': choose one of ddpm, ddim"),
    ("--trajectory evn", "unknown trajectory 'evn': choose one of even, quadratic"),
    ("--K 31", "K = 31 steps: choose 1 to 30"),
    ("--K 0", "K = 0 steps: choose 1 to 30"),
    ("--times 3 3 30", "times 3, 3: they must ascend without repeats"),
    ("--times 1 9 3 30", "times 9, 3: they must ascend"),
    ("--times 1 20", "times 1..20: they must lie in 1..30 and end at 30"),
    ("--n 0", "n = 0: it is at least 1"),
    ("--K 3 --schedule cosine", "schedule = cosine has no effect, the network of {trained} is taken as it is"),
    ("--K 3 --T 200", "T = 200 has no effect"),
    ("--K 3 --sampler ddim --eta 2", "eta = 2 is outside [0, 1]"),
    ("--K 3 --sampler ddim --variance interpolated", "defined for the DDPM kernel only"),
    ("--K 3 --variance interpolated:2", "frac = 2 is outside [0, 1]"),
    ("--K 3 --variance interpolated:half", "variance 'interpolated:half': frac is a number, not 'half'"),
    ("--K 3 --variance family:-1", "c = -1: a variance of the data is finite and at least 0"),
    ("--K 3 --variance large:2", "variance 'large:2': large takes nothing after its name, not '2'"),
    ("--K 3 --variance learned_range:held", "learned_range knows clamped, not 'held'"),
    ("--variance interpolated --frac 0.7", "--frac is now part of the choice's name: --variance interpolated:0.7\n"),
    ("--variance family --c=-1", "--c is now part of the choice's name: --variance family:-1\n"),
    ("--variance family --c", "--c is now part of the choice's name: --variance family:NUMBER\n"),
    (
        "--variance learned_range --clamp-head --K 3",
        "--clamp-head is now part of the choice's name: --variance learned_range:clamped\n",
    ),
    ("--no-clamp_head", "--no-clamp_head is now part of the choice's name: --variance learned_range\n"),
    ("--K 3 --data digits", "data = digits has no effect: large measures nothing, leave it out"),
    (
        "--K 3 --variance isotropic --data digits --moments {other}/moments.npz",
        "data = digits has no effect beside --moments: leave one of them out",
    ),
    (
        "--K 3 --variance isotropic --data digit",
        "variance 'isotropic' is measured on images, and unknown data set 'digit'",
    ),
    ("--K 3 --variance isotropic --data loud", "grey level 16, outside [-1, 1] with 16 levels: give it 17"),
    ("--K 3 --last-step none", "unknown last_step 'none': choose mean or noise"),
    ("--K 3 --pixel-clip -1", "pixel_clip = -1"),
    ("--K 3 --protocol edm", "unknown protocol 'edm': choose one of ddpm, analytic-dpm, iddpm"),
    ("--K 3 --variance npr", "the variance 'npr' reads a head of that name and the denoiser has none"),
    ("--K 3 --head-checkpoint {new}", "no checkpoint in {new}/checkpoints: train first"),
    (
        "--K 3 --head-checkpoint {trained}",
        "holds a training run, not heads: give the workdir of ddpm-jax heads",
    ),
    ("--workdir {new}", "no checkpoint in {new}/checkpoints: train first"),
    ("--out {file}/deep", "{file} is a file"),
    ("--K 3 --variance isotropic --moments {other}/moments.npz", "is of another denoiser"),
    ("--K 3 --variance isotropic --moments {file}", "holds no moments: give the moments.npz"),
    ("--K 3 --variance isotropic --moments {new}", "holds no moments: give the moments.npz"),
]
ABLATION = [
    ("--checkpoint {trained} --K 31", "K = 31 steps: choose 1 to 30"),
    ("--checkpoint {trained} --K 0", "K = 0 steps: choose 1 to 30"),
    ("--checkpoint {trained} --variances smal", "unknown variance 'smal': choose one of"),
    ("--checkpoint {trained} --trajectories evn", "unknown trajectory 'evn': choose one of"),
    ("--checkpoint {trained} --K 3 3", "K = 3 3 repeats one: give each once"),
    ("--checkpoint {trained} --variances large large", "variances = large large repeats one"),
    ("--checkpoint {trained} --K 31 --trajectories", "K = 31 steps: choose 1 to 30"),
    ("--checkpoint {trained} --parallel pjit", "unknown parallel 'pjit'"),
    ("--batch 9 --microbatches 2 --preset tiny --T 30", "batch 9 does not split over 1 device and 2 microbatches"),
    ("--checkpoint {trained} --seeds 0", "seeds = 0: it is at least 1"),
    ("--checkpoint {trained} --images 1", "images = 1: it is at least 2"),
    ("--checkpoint {trained} --last-step none", "unknown last_step 'none'"),
    ("--checkpoint {trained} --variances interpolated:2", "frac = 2 is outside [0, 1]"),
    (
        "--checkpoint {trained} --variances interpolated --frac 0.7",
        "--frac is now part of the choice's name: --variances interpolated:0.7\n",
    ),
    (
        "--checkpoint {trained} --c 0.25 --variances family",
        "--c is now part of the choice's name: --variances family:0.25\n",
    ),
    ("--clamp-head", "--clamp-head is now part of the choice's name: --variances learned_range:clamped\n"),
    ("--checkpoint {trained} --training-seeds 2", "training_seeds = 2"),
    ("--checkpoint {trained} --variances sn", "reads the head 'sn' and the denoiser has none: train it with"),
    (
        "--preset tiny --T 30 --variances large --head-steps 7",
        "options of heads have no effect: no variance that is compared reads one; leave them out",
    ),
    (
        "--preset tiny --T 30 --variances npr --clip-x-0 False",
        "fit_clip_x_0 = True and clip_x_0 = False: heads are fitted to the mean that is",
    ),
    ("--preset tiny --T 30 --variances learned", "sample_K = 3: none of learned is defined on such chains"),
    ("--decoder mine", "unknown decoder 'mine': choose shared or own"),
    ("--checkpoint {trained} --head-steps 7", "options of heads have no effect: a network that is there gets none"),
    ("--checkpoint {trained} --head-checkpoint {trained}", "holds a training run, not heads"),
    (
        "--preset tiny --T 30 --head-checkpoint {new}",
        "--head-checkpoint {new} needs the --checkpoint it was trained on",
    ),
    ("--preset tiny --T 30 --heads nrp", "unknown head 'nrp': choose from npr, sn"),
    ("--preset tiny --T 30 --size huge", "unknown size 'huge': choose one of narrow, wide"),
    ("--checkpoint {trained} --protocol edm", "unknown protocol 'edm'"),
    (
        "--checkpoint {trained} --schedule cosine",
        "schedule = cosine has no effect, the network of {trained} is taken as it is",
    ),
    ("--checkpoint {new}", "no checkpoint in {new}/checkpoints: train first"),
    ("--checkpoint {trained} --workdir {file}", "{file} is a file"),
    ("--checkpoint {trained} --workdir {foreign}", "not of this experiment: choose another --workdir"),
    ("--checkpoint {trained} --workdir {other}", "holds a training run: choose another --workdir"),
    ("--checkpoint {trained} --workdir {own}", "holds results of another network, tests."),
    ("--preset tiny --T 30 --workdir {own}", "holds results of the network tests."),
    ("--training-seeds 0", "training_seeds = 0"),
    ("--denoiser math:sqrt --checkpoint {trained}", "give one of them"),
    ("--denoiser nowhere:f", "--denoiser nowhere:f: No module named 'nowhere'; give module:function"),
    ("--denoiser math:nothing", "has no attribute 'nothing'; give module:function"),
    ("--denoiser math", "--denoiser math: "),
    ("--denoiser ./mine.py:eps", "--denoiser ./mine.py:eps: "),
    (f"--denoiser {HERE}:fails", "fails on x_t ("),
    (f"--denoiser {HERE}:whole --parallel pjit", "unknown parallel 'pjit'"),
    ("--denoiser math:pi", "denoiser math:pi is a float: give a callable"),
    ("--denoiser math:sqrt", "denoiser math:sqrt fails on x_t"),
    (f"--denoiser {HERE}:whole --steps 7", "steps = 7 has no effect, a --denoiser is not trained: leave it out"),
    (f"--denoiser {HERE}:whole --T 10", "outside (0, 1): lower it"),
    (f"--denoiser {HERE}:whole --schedule jsd", "prediction 'eps' needs alpha_bar_T > 0"),
    (f"--denoiser {HERE}:cropped", "returns float32"),
    (f"--denoiser {HERE}:integers", "returns int32"),
    (f"--denoiser {HERE}:infinite", "not finite at t = 1"),
]
HEADS = [
    ("--workdir {new}", "give one of them"),
    ("--checkpoint {trained} --denoiser math:sqrt", "give one of them"),
    ("--checkpoint {new}", "no checkpoint in {new}/checkpoints: train first"),
    ("--checkpoint {trained} --workdir {trained}", "holds the network: choose another folder for its heads"),
    ("--checkpoint {trained} --workdir {other}", "holds a training run, not heads: choose another --workdir"),
    ("--checkpoint {trained} --heads nrp", "unknown head 'nrp': choose from npr, sn"),
    ("--checkpoint {trained} --heads npr npr", "give at least one, each once"),
    ("--checkpoint {trained} --save-every 0", "save_every = 0: it is at least 1"),
    ("--checkpoint {trained} --head-learning-rate -1", "head_learning_rate = -1: it must be positive"),
    ("--checkpoint {trained} --size huge", "unknown size 'huge': choose one of narrow, wide"),
    ("--checkpoint {trained} --chain 31", "K = 31 steps: choose 1 to 30"),
    ("--checkpoint {trained} --head-steps 0", "head_steps = 0: it is at least 1"),
    ("--checkpoint {trained} --schedule cosine", "schedule = cosine has no effect"),
    ("--checkpoint {trained} --parallel pjit", "unknown parallel 'pjit'"),
    ("--checkpoint {trained} --workdir {file}/deep", "{file} is a file; choose another folder"),
]
TABLES = {"heads": HEADS, "train": TRAIN, "sample": SAMPLE, "ablate": ABLATION}
CASES = [(name, *case) for name, cases in TABLES.items() for case in cases]


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def refused(name: str, argv: Sequence[object], capsys: pytest.CaptureFixture) -> str:
    """What the command says before it exits with 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(name, *argv)
    error = capsys.readouterr().err
    assert stop.value.code == 2, error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(("name", "options", "message"), CASES, ids=[f"{name} {options}" for name, options, _ in CASES])
def test_it_is_refused_in_one_line_and_nothing_is_written(
    places: dict[str, Path], capsys: pytest.CaptureFixture, name: str, options: str, message: str
) -> None:
    fill = lambda text: text.replace("{'", "{{'").format(**places)  # noqa: E731
    argv = fill(options).split()
    defaults = {"train": {"--workdir": places["new"]}, "sample": {"--workdir": places["trained"]}}
    defaults |= {command: {"--workdir": places["new"]} for command in ("ablate", "heads")}
    if name == "train":
        argv = [*(word for word in TRAINING if word), *argv]
    if name == "sample" and "--out" not in argv:
        argv += ["--out", str(places["new"])]
    if name == "ablate":
        argv = [*([] if "--K" in argv else ["--K", "3"]), "--sample-K", "3", *argv]
    for option, value in defaults[name].items():
        argv = argv if option in argv else [*argv, option, str(value)]
    before = snapshot(places["root"]), snapshot(places["trained"])
    assert fill(message) in refused(name, argv, capsys)
    assert (snapshot(places["root"]), snapshot(places["trained"])) == before


def test_a_data_set_that_has_changed_is_refused(
    trained: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Levels and numbers of images differ: the first is named, in every process."""
    digits = datasets.digits()
    monkeypatch.setitem(datasets.DATASETS, "digits", lambda: digits._replace(levels=33))
    of, new = ["--checkpoint", str(trained)], str(trained / "new")
    for name, argv in (
        ("sample", ["--K", "3", "--variance", "isotropic", "--workdir", str(trained)]),
        ("train", [*TRAINING, "--workdir", str(trained)]),
        ("heads", [*of, "--workdir", new]),
        ("ablate", [*of, "--K", "3", "--sample-K", "3", "--workdir", new]),
    ):
        error = refused(name, argv, capsys)
        assert "was trained on digits with levels 17 and it now has 33" in error


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The workdir of a training, and the path of its images, which are not there any more."""
    root = tmp_path_factory.mktemp("left")
    images = noise(root / "images.npz")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        run("train", *TRAINING, "--data", str(images), "--workdir", str(root / "run"))
    images.unlink()
    datasets._of_path.cache_clear()  # as in a new process
    return root / "run", images


def noise(path: Path, side: int = 8) -> Path:
    """An .npz of images of 256 grey levels."""
    np.savez(path, images=np.random.default_rng(side).integers(0, 256, (60, side, side, 1), np.uint8))
    return path


@pytest.mark.slow
def test_a_network_is_sampled_where_its_data_are_not(
    left: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Unless the variance is measured, which other images of the same shape serve, too."""
    workdir, images = left
    few = ["--workdir", str(workdir), "--K", "3", "--n", "2", "--out", str(tmp_path / "out")]
    for variance in ("small", "large", "interpolated:0.7", "family:0.25"):
        run("sample", *few, "--variance", variance)
        assert np.load(tmp_path / "out" / "samples.npz")["arr_0"].shape == (2, 8, 8, 1)
        shutil.rmtree(tmp_path / "out")
    for variance in ("isotropic", "family"):
        error = refused("sample", [*few, "--variance", variance], capsys)
        assert f"error: variance {variance!r} is measured on images, and {images} is not there" in error
        assert error.endswith("give others of their shape with --data, or --moments of an ablation\n")
        run("sample", *few, "--variance", variance, "--data", str(noise(tmp_path / "others.npz")))
        assert np.load(tmp_path / "out" / "samples.npz")["arr_0"].shape == (2, 8, 8, 1)
    measured = [*few, "--variance", "isotropic", "--data"]
    error = refused("sample", [*measured, str(noise(tmp_path / "wide.npz", side=16))], capsys)
    assert "wide.npz has images of shape (16, 16, 1)" in error and f"{workdir} was trained on (8, 8, 1)" in error
    assert "digits has images of levels 17 and" in refused("sample", [*measured, "digits"], capsys)


def test_what_looks_at_images_names_those_that_are_not_there(
    left: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    workdir, images = left
    of = ["--checkpoint", str(workdir), "--workdir", str(tmp_path / "new")]
    for name, argv in (("ablate", [*of, *FEW]), ("heads", of)):
        assert f"{images} is not there: give a folder of images" in refused(name, argv, capsys)
    run("export", "--workdir", str(workdir), "--out", str(tmp_path / "theirs"))
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def damage(folder: Path, step: int) -> None:
    """Zeros in the place of every array of a checkpoint."""
    files = [path for path in (folder / "checkpoints" / str(step) / "state").rglob("*") if path.is_file()]
    assert files
    for path in files:
        path.write_bytes(b"\0" * path.stat().st_size)


def steps_of(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").iterdir()}


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_taken(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        shutil.copytree(trained, folder)
    for time in (1, 2):
        damage(broken, 4)
        run("sample", "--workdir", str(broken), "--K", "3", "--n", "2")
        warning = capsys.readouterr().err
        assert f"warning: checkpoint {broken}/checkpoints/4 cannot be read" in warning
        run("train", *TRAINING, "--workdir", str(broken))
        assert steps_of(broken) >= {"2", "4", f"4.damaged-{time}"}
    for folder in (whole, broken):
        run("sample", "--workdir", str(folder), "--K", "3", "--n", "2", "--out", str(tmp_path / "out" / folder.name))
    drawn = [np.load(tmp_path / "out" / name / "samples.npz")["arr_0"] for name in ("whole", "broken")]
    np.testing.assert_array_equal(*drawn)


def test_a_run_without_a_readable_checkpoint_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(trained, tmp_path / "broken")
    for step in (2, 4):
        damage(tmp_path / "broken", step)
    with pytest.raises(SystemExit) as stop:
        run("sample", "--workdir", str(tmp_path / "broken"), "--K", "3")
    error = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert [line.partition(":")[0] for line in error] == ["warning", "warning", "error"]
    assert error[-1].endswith("can be read: train again in another --workdir")


@pytest.mark.parametrize("where", ["checkpoint", "cell"])
def test_a_full_disk_is_one_line_and_what_was_finished_is_kept(
    where: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    if where == "checkpoint":
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))
        argv, place = ["train", *TRAINING, "--steps", "6"], "checkpoints: No space left for a checkpoint of"
    else:
        monkeypatch.setattr(np, "savez", full)
        argv, place = ["ablate", *TRAINING, *FEW], ".npz: No space left on device"
    with pytest.raises(SystemExit) as stop:
        run(argv[0], *argv[1:], "--workdir", str(folder))
    error = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 2
    assert error.startswith(f"error: {folder}")
    assert place in error
    assert error.endswith("what was finished is kept, run again when mended")
    assert steps_of(folder) >= {"2", "4"}
    assert not list(folder.rglob("*.npz*"))
