"""The architecture, read from the source: imports go down only, one job a module, every formula names its source.

Every rule is a function from source text to complaints, and is shown to complain about made-up text that breaks it.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Module(NamedTuple):
    """A module's dotted name below its package, and its source."""

    name: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return parse(self.text)


@cache
def parse(text: str) -> ast.Module:
    return ast.parse(text)


@cache
def modules(package: str) -> tuple[Module, ...]:
    """Every module of a package of this repository; a package's own __init__ has the package's name."""
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT / package).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        found.append(Module(name, path.read_text(encoding="utf-8")))
    return tuple(found)


PACKAGE = modules("ddpm_jax")
EXPERIMENTS = modules("experiments")


def complaints(rule, *groups: tuple[Module, ...]) -> list[str]:
    """What a rule says of every module."""
    return [f"{module.name}: {line}" for module in chain(*groups) for line in rule(module)]


# ---------------------------------------------------------------- imports go down only

# Lowest first; a module imports only from modules before it. A new module is one word here.
LAYERS = {
    "on their own": "basis schedule time_sampler trajectory cells devices config eval.fid report.table "
    "compilations program tpu records framing processes optimizer packing convert.files",
    "devices": "parallel",
    "compiled programs": "operations",
    "the network": "dropout products layers unet",
    "the data": "feed parts prepared image_files data",
    "the mathematics": "gaussian predict process reverse heads variance objective frozen protocols sampler mixture "
    "finite_set worlds",
    "training": "recipes train manifest storage checkpoint",
    "evaluation": "subject eval.classifier eval.windows eval.inception eval.feature_metrics eval.spline eval.decoders "
    "eval.costs eval.visit eval.moments eval.elbo eval.ablation eval.checks eval.curves eval.budget eval.fid_protocol "
    "eval.judge eval.distances eval.quality eval.spread",
    "exact worlds": "eval.gaussian_chain eval.frechet_schedule eval.gaussian_samples eval.power_law eval.density",
    "a whole study": "eval.study eval.findings eval.whole_chain",
    "a run": "command agreement pace journal places guard run preview sources room loop head_run",
    "other projects": "convert.tensors convert.diffusers convert.diffusers_scheduler convert.improved_diffusion",
    "the page": "report.chart report.bound_figures report.figures report.mosaics report.interactive report.printed "
    "report.claims report.markdown report.published report.literature report.page report.provenance report.distances "
    "report.exact_figures report.exact_tables report.spectral "
    "report.trained_claims report.trained_table report.reproduction",
}
ORDER = [name for row in LAYERS.values() for name in row.split()]
PACKAGES = {"convert", "eval", "report"}
ON_THEIR_OWN = set(LAYERS["on their own"].split())
# The page is made from plain results; only where a run came from is read off the run itself.
PAGE_READS = {"report.provenance": {"data", "journal", "recipes", "unet"}}
# Who may import these, of ddpm_jax; experiments may import everything.
ONLY_IMPORTED_BY = {
    "config": {"command", "agreement", "pace", "places", "run", "room", "loop", "sources", "head_run"},
    "run": {"loop", "preview", "sources", "head_run"},
    "loop": {"head_run"},
}


def imported(module: Module) -> list[str]:
    """Every absolute dotted name that a module imports, at any depth of its code: `from a import b` gives a.b."""
    names = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names]
    return names


def of_package(module: Module, known: set[str]) -> set[str]:
    """The modules of ddpm_jax that a module imports."""
    found = set()
    for name in imported(module):
        if name.split(".")[0] != "ddpm_jax":
            continue
        below = name.removeprefix("ddpm_jax").removeprefix(".")
        while below and below not in known:
            below = below.rpartition(".")[0]
        found |= {below} - {""}
    return found


def import_picture(module: Module) -> Iterator[str]:
    """Imports go down only."""
    if not module.name or module.name in PACKAGES:
        yield from (f"a package imports nothing, not {name}" for name in imported(module))
        return
    if module.name not in ORDER:
        yield "is missing in LAYERS"
        return
    below = set(ORDER[: ORDER.index(module.name)])
    for name in sorted(of_package(module, set(ORDER))):
        if name not in below:
            yield f"imports {name}, which is not below it"
        if module.name in ON_THEIR_OWN:
            yield f"stands on its own and imports {name}"
        if module.name not in ONLY_IMPORTED_BY.get(name, {module.name}):
            yield f"must not import {name}"
        of_page = module.name.startswith("report.")
        if name.startswith("report.") != of_page and name not in PAGE_READS.get(module.name, set()):
            yield f"must not import {name}: the page is beside the rest"
    yield from ("relative import" for name in imported(module) if name.startswith("."))


def test_imports_go_down_only() -> None:
    assert complaints(import_picture, PACKAGE) == []


def test_the_picture_names_no_module_that_does_not_exist() -> None:
    assert set(ORDER) <= {module.name for module in PACKAGE}
    assert len(ORDER) == len(set(ORDER))


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("process", "from ddpm_jax import variance", "not below"),
        ("process", "from ddpm_jax.variance import small", "not below"),
        ("process", "import ddpm_jax.variance", "not below"),
        ("process", "def f():\n    from ddpm_jax.eval.moments import measure", "not below"),
        ("variance", "from ddpm_jax.variance import small", "not below"),
        ("schedule", "from ddpm_jax.basis import PIXEL", "on its own"),
        ("devices", "from ddpm_jax import schedule", "on its own"),
        ("train", "from ddpm_jax.config import Config", "must not import"),
        ("report.page", "from ddpm_jax import loop", "must not import"),
        ("eval.quality", "from ddpm_jax.report import table", "beside"),
        ("report.page", "from ddpm_jax.eval import moments", "beside"),
        ("medium", "", "missing"),
        ("process", "from . import schedule", "relative"),
        ("eval", "from ddpm_jax.eval import moments", "a package"),
    ],
)
def test_an_import_that_goes_up_is_seen(name: str, text: str, word: str) -> None:
    assert any(word in line for line in import_picture(Module(name, text)))


def test_an_import_that_goes_down_is_right() -> None:
    text = "import numpy\nfrom ddpm_jax import gaussian, process\nfrom ddpm_jax.schedule import Schedule"
    assert list(import_picture(Module("variance", text))) == []
    assert list(import_picture(Module("loop", "from ddpm_jax.config import Config"))) == []


# ---------------------------------------------------------------- one home for every library

HOMES = {
    "flax": {"unet", "layers"},
    "orbax": {"checkpoint", "processes"},
    "grain": {"feed"},
    "tyro": {"config", "command"},
    "optax": {"optimizer", "recipes", "train"},
    "tensorboardX": {"journal"},
    "sklearn": {"data", "eval.classifier"},
    "jinja2": {"report.page"},
    "safetensors": {"convert.files"},
    "torch": {"convert.files"},
}
AT_MOST = {
    "matplotlib": set(LAYERS["the page"].split()),
    "tensorflow_datasets": {"prepared"},
    "tensorflow": set(),
}
# Of experiments: pictures of samples, examples of users' own networks, and what the benchmark compares with.
EXPERIMENTS_MAY = {
    "matplotlib": {"sample"},
    "flax": {"denoisers"},
    "optax": {"denoisers"},
    "torch": {"against_diffusers", "inception_layers"},
}


def libraries(module: Module) -> set[str]:
    return {name.split(".")[0] for name in imported(module)}


def homes(module: Module) -> Iterator[str]:
    """A library is imported in its home only."""
    for name, where in {**HOMES, **AT_MOST}.items():
        if name in libraries(module) and module.name not in where:
            yield f"imports {name}, whose home is {' and '.join(sorted(where)) or 'nowhere'}"


def homes_in_experiments(module: Module) -> Iterator[str]:
    """Experiments reach the libraries through ddpm_jax."""
    for name in sorted(libraries(module) & (HOMES.keys() | AT_MOST.keys())):
        if module.name.split(".")[0] not in EXPERIMENTS_MAY.get(name, set()):
            yield f"imports {name}"


def test_every_library_has_its_home() -> None:
    assert complaints(homes, PACKAGE) == []
    assert complaints(homes_in_experiments, EXPERIMENTS) == []
    for library, where in HOMES.items():
        assert {module.name for module in PACKAGE if library in libraries(module)} == where, library


def test_a_library_away_from_home_is_seen() -> None:
    assert list(homes(Module("train", "import flax.linen as nn")))
    assert list(homes(Module("loop", "def f():\n    from orbax import checkpoint")))
    assert list(homes(Module("data", "import tensorflow as tf")))
    assert not list(homes(Module("unet", "import flax.linen as nn\nimport jax")))
    assert list(homes_in_experiments(Module("train", "import tyro")))
    assert list(homes_in_experiments(Module("train", "from matplotlib import pyplot")))
    assert not list(homes_in_experiments(Module("denoisers.mlp", "from flax import nnx")))
    assert not list(homes_in_experiments(Module("sample", "from matplotlib import pyplot")))


# ---------------------------------------------------------------- only devices.py names devices

COUNTS = {"devices", "local_devices", "device_count", "local_device_count"}
DEVICES = COUNTS | {"pmap", "shard_map", "Mesh", "make_mesh", "NamedSharding", "PartitionSpec", "SingleDeviceSharding"}
NAMES_DEVICES = {"devices": DEVICES, "report.provenance": COUNTS}  # the report says what a run was made on


def devices_named(module: Module) -> Iterator[str]:
    """jax's devices, meshes and maps over them are named in devices.py."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and root_of(node) == "jax":
            names = {node.attr}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jax":
            names = {alias.name for alias in node.names}
        else:
            continue
        for name in sorted(names & DEVICES - NAMES_DEVICES.get(module.name, set())):
            yield f"line {node.lineno} names jax's {name}"


def root_of(node: ast.expr) -> str | None:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def test_only_one_module_names_devices() -> None:
    assert complaints(devices_named, PACKAGE, EXPERIMENTS) == []


def test_a_device_named_elsewhere_is_seen() -> None:
    for text in (
        "jax.local_devices()",
        "jax.sharding.Mesh([], ())",
        "from jax.sharding import NamedSharding",
        "jax.pmap",
    ):
        assert list(devices_named(Module("train", "import jax\n" + text))), text
        assert not list(devices_named(Module("devices", "import jax\n" + text))), text
    assert not list(devices_named(Module("train", "def f(devices, parallel):\n    return parallel.pmap, devices")))
    assert list(devices_named(Module("report.provenance", "import jax\njax.pmap")))


# ---------------------------------------------------------------- sizes

LINES, LINES_OF_THE_NETWORK = 250, 300
BODY, BODY_OF_MAIN = 40, 80  # lines of a function without its docstring
PARAMETERS = 6
MORE_PARAMETERS = {
    "objective.noised": "all that a training step draws",
    "sampler.sample": "the public contract: three have defaults",
    "sampler.sample_path": "as sampler.sample",
    "sampler.sample_each": "as sampler.sample",
    "sampler._chain": "what sampler.sample and sample_path share",
    "sampler._scan": "the compiled part: decisions are keywords",
    "eval.moments.measure": "the public contract: four have defaults",
    "eval.quality.draw": "the public contract: two have defaults",
}


def functions(module: Module) -> Iterator[tuple[str, Function]]:
    """Every function and method at any depth, with its dotted name within the package."""

    def visit(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                yield f"{prefix}{child.name}", child
            named = isinstance(child, Function | ast.ClassDef)
            yield from visit(child, f"{prefix}{child.name}." if named else prefix)

    return visit(module.tree, f"{module.name}." if module.name else "")


def size_of_module(module: Module) -> Iterator[str]:
    """A module is read in one sitting."""
    count = len(module.text.splitlines())
    limit = LINES_OF_THE_NETWORK if module.name == "unet" else LINES
    if count > limit:
        yield f"{count} lines, more than {limit}"


def size_of_functions(module: Module) -> Iterator[str]:
    """A function is seen at once."""
    for name, node in functions(module):
        docstring = node.body[0].end_lineno - node.body[0].lineno + 1 if ast.get_docstring(node) is not None else 0
        count = node.end_lineno - node.lineno + 1 - docstring
        limit = BODY_OF_MAIN if node.name == "main" else BODY
        if count > limit:
            yield f"{name} has {count} lines without its docstring, more than {limit}"


def parameter_count(node: Function) -> int:
    arguments = node.args
    listed = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return len([one for one in listed if one.arg not in ("self", "cls")])


def many_parameters(module: Module) -> Iterator[str]:
    """A function takes few things."""
    for name, node in functions(module):
        if parameter_count(node) > PARAMETERS and name not in MORE_PARAMETERS:
            yield f"{name} has {parameter_count(node)} parameters, more than {PARAMETERS}"


def test_modules_and_functions_are_small() -> None:
    for rule in (size_of_module, size_of_functions, many_parameters):
        assert complaints(rule, PACKAGE, EXPERIMENTS) == []


def test_every_exception_to_the_number_of_parameters_is_needed() -> None:
    counts = {name: parameter_count(node) for module in PACKAGE for name, node in functions(module)}
    for name in MORE_PARAMETERS:
        assert counts.get(name, 0) > PARAMETERS, f"{name} needs no exception"


def test_what_is_too_large_is_seen() -> None:
    long = "def f():\n" + "    1\n" * 40
    assert list(size_of_functions(Module("train", long)))
    assert not list(size_of_functions(Module("train", long.removesuffix("    1\n"))))
    assert not list(size_of_functions(Module("train", long.replace("f()", "main()"))))
    documented = 'def f():\n    """What.\n' + "\n" * 30 + '    """\n' + "    1\n" * 39
    assert not list(size_of_functions(Module("train", documented)))
    assert list(size_of_functions(Module("train", documented + "    1\n")))
    assert list(size_of_functions(Module("train", "class A:\n    def f(self):\n" + "        1\n" * 40)))
    assert list(size_of_module(Module("train", "1\n" * 251))) and not list(size_of_module(Module("train", "1\n" * 250)))
    assert list(many_parameters(Module("train", "def f(a, b, c, d, e, f, *, g): ...")))
    assert not list(many_parameters(Module("train", "def f(self, a, b, c, d, e, f): ...")))


# ---------------------------------------------------------------- tests mirror the package

COVERED_BY = {
    "devices": "tests/test_parallel.py",
    "protocols": "tests/test_sampler.py",
    "run": "tests/test_loop.py",
    "recipes": "tests/test_train.py",
    "manifest": "tests/test_checkpoint.py",
    "storage": "tests/test_checkpoint.py",
    "places": "tests/test_loop.py",
    "preview": "tests/test_loop.py",
    "sources": "tests/experiments/test_commands.py",
    "convert.files": "tests/convert/test_diffusers.py",
    "convert.tensors": "tests/convert/test_diffusers.py",
    "eval.visit": "tests/eval/test_moments.py",
    "eval.findings": "tests/eval/test_study.py",
}
MIRROR_NOTHING = {
    "tests/test_architecture.py": "of the whole package",
    "tests/test_mutants.py": "of the list of mutants",
    "tests/report/test_browser.py": "of the page as a whole",
    "tests/convert/test_oracles.py": "of other projects' code",
}


def mirror(name: str) -> str:
    """The test module of a module: eval.moments -> tests/eval/test_moments.py."""
    *folders, last = name.split(".")
    return "/".join(["tests", *folders, f"test_{last}.py"])


def unmirrored(names: set[str], tests: set[str]) -> Iterator[str]:
    """Modules without a test module, and the other way round; experiments are tested together, as commands."""
    for name in sorted(names):
        if COVERED_BY.get(name, mirror(name)) not in tests:
            yield f"{name} has no {COVERED_BY.get(name, mirror(name))}"
        elif name in COVERED_BY and mirror(name) in tests:
            yield f"{name} has its own test module and needs no exception"
    mirrored = {mirror(name) for name in names} | MIRROR_NOTHING.keys()
    of_commands = {test for test in tests if test.startswith("tests/experiments/")}
    yield from (f"{test} mirrors nothing" for test in sorted(tests - mirrored - of_commands))


def test_tests_mirror_the_package() -> None:
    names = {module.name for module in PACKAGE} - {"", *PACKAGES}
    tests = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
    assert list(unmirrored(names, tests)) == []


def test_a_broken_mirror_is_seen() -> None:
    assert list(unmirrored({"train"}, set())) == ["train has no tests/test_train.py"]
    assert list(unmirrored(set(), {"tests/test_train.py"})) == ["tests/test_train.py mirrors nothing"]
    assert list(unmirrored({"eval.fid"}, {"tests/eval/test_fid.py"})) == []
    both = {"tests/test_loop.py", "tests/test_run.py"}
    assert "run has its own test module and needs no exception" in list(unmirrored({"run", "loop"}, both))


NAMELESS = {"utils", "util", "misc", "common", "helpers", "helper"}


def nameless(module: Module) -> Iterator[str]:
    """A module is called after its job."""
    yield from (f"{part} says nothing" for part in module.name.split(".") if part in NAMELESS)


def test_no_module_is_called_utils() -> None:
    assert complaints(nameless, PACKAGE, EXPERIMENTS, modules("tests")) == []
    assert list(nameless(Module("eval.utils", ""))) and not list(nameless(Module("eval.fid", "")))


# ---------------------------------------------------------------- docstrings


def public(module: Module) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """The public classes, functions and methods of a module; nested functions are nobody's business."""

    def visit(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, Function | ast.ClassDef]]:
        for node in body:
            if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
                continue
            yield f"{prefix}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from visit(node.body, f"{prefix}{node.name}.")

    return visit(module.tree.body, f"{module.name}.")


def public_functions(module: Module) -> Iterator[tuple[str, Function]]:
    return ((name, node) for name, node in public(module) if isinstance(node, Function))


def undocumented(module: Module) -> Iterator[str]:
    """Everything public says what it is."""
    if not ast.get_docstring(module.tree):
        yield "no docstring"
    yield from (f"{name} has no docstring" for name, node in public(module) if not ast.get_docstring(node))


def raises_of(node: ast.AST) -> set[str]:
    """The exceptions that a function raises by name."""
    raised = [child.exc for child in ast.walk(node) if isinstance(child, ast.Raise) and child.exc]
    called = [exc.func if isinstance(exc, ast.Call) else exc for exc in raised]
    return {exc.id for exc in called if isinstance(exc, ast.Name)}


def undocumented_raises(module: Module) -> Iterator[str]:
    """What a public function raises itself stands under its Raises."""
    for name, node in public_functions(module):
        *_, documented = ("", *re.split(r"^Raises:$", ast.get_docstring(node) or "", flags=re.MULTILINE)[1:])
        for exception in sorted(raises_of(node)):
            if f"  {exception}: " not in documented:
                yield f"{name} raises {exception} and does not say so under Raises"


def test_everything_public_is_documented() -> None:
    assert complaints(undocumented, PACKAGE, EXPERIMENTS[:1]) == []
    assert complaints(undocumented_raises, PACKAGE) == []


def test_a_missing_docstring_is_seen() -> None:
    assert list(undocumented(Module("train", "")))
    assert list(undocumented(Module("train", '"""M."""\ndef f(): ...')))
    assert list(undocumented(Module("train", '"""M."""\nclass A:\n    """A."""\n    def f(self): ...')))
    assert not list(undocumented(Module("train", '"""M."""\ndef f():\n    """F."""\ndef _g(): ...')))
    raising = 'def f():\n    """F.{}"""\n    raise ValueError("no")'
    assert list(undocumented_raises(Module("train", raising.format(""))))
    assert list(undocumented_raises(Module("train", raising.format("\n\n    ValueError: never.\n    "))))
    assert not list(
        undocumented_raises(Module("train", raising.format("\n\n    Raises:\n      ValueError: ever.\n    ")))
    )


# ---------------------------------------------------------------- every formula names its source

MATHEMATICS = (
    "schedule gaussian predict process variance objective sampler trajectory worlds eval.moments eval.elbo eval.fid"
).split()
# These look something up, build or refuse; no formula is their own.
NO_FORMULA = {
    "eval.density.grid",
    "finite_set.blocks",
    "mixture.of",
    "schedule.Schedule.T",
    "schedule.rows",
    "predict.check_prediction",
    "predict.as_argument",
    "predict.make_denoiser",
    "process.Steps.K",
    "variance.measured",
    "variance.check_name",
    "variance.build",
    "reverse.check_steps",
    "reverse.table",
    "objective.build",
    "trajectory.explicit",
    "trajectory.named",
    "eval.moments.save",
    "eval.moments.load",
}
PAPER = (
    r"[A-Z][\w&'-]+(?: et al\.| & [A-Z][\w'-]+)? (?:19|20)\d\d\b[^.]*?"
    r"(?:equation|section|algorithm|theorem|appendix|table|released code)"
)
SOURCES = (PAPER, r"\bthe article", r"\S = \S")
SECTIONS = r"^(?:Args|Returns|Raises|Attributes):$"


def sourceless(module: Module) -> Iterator[str]:
    """A function of the mathematics names a paper and the place in it, the article, or writes its formula.

    What stands under Args, Returns or Raises does not count.
    """
    if module.name not in MATHEMATICS:
        return
    for name, node in public_functions(module):
        said = " ".join(re.split(SECTIONS, ast.get_docstring(node) or "", flags=re.MULTILINE)[0].split())
        found = any(re.search(source, said, re.IGNORECASE if source != PAPER else 0) for source in SOURCES)
        if not found and name not in NO_FORMULA:
            yield f"{name} names no source"
        if found and name in NO_FORMULA:
            yield f"{name} names a source and needs no exception"


def test_every_formula_names_its_source() -> None:
    assert complaints(sourceless, PACKAGE) == []
    assert {name for module in PACKAGE for name, _ in public_functions(module)} >= NO_FORMULA


@pytest.mark.parametrize(
    ("docstring", "right"),
    [
        ("Ho et al. 2020, equation 7.", True),
        ("Nichol & Dhariwal 2021, section 3.1.", True),
        ("Song et al. 2021 (DDIM), released code's `quad`.", True),
        ("The article's Bayes step.", True),
        ("x_t = a x_0 + b eps.", True),
        ("The loss of Ho et al. 2020.", False),
        ("The usual formula, see equation 7.", False),
        ("The variance.\n\n    Args:\n      a: b = 1 - a. Ho et al. 2020, equation 7.\n    ", False),
        ("The variance.", False),
    ],
)
def test_a_formula_without_a_source_is_seen(docstring: str, right: bool) -> None:
    module = Module("process", f'def f():\n    """{docstring}"""')
    assert (list(sourceless(module)) == []) == right


IN_NATS_OR_BITS = re.compile(r"(?:^|_)(?:kl|log|bits|likelihoods?|cost|nats)(?:_|$)")
LOG_IN_WORDS = re.compile(r"\blog (?:sigma|var|density|P\b|tb\b|of the normal mass)")


def without_unit(module: Module) -> Iterator[str]:
    """What returns a likelihood, a divergence or a log variance says nats or bits."""
    for name, node in public_functions(module):
        said = ast.get_docstring(node) or ""
        returns = IN_NATS_OR_BITS.search(node.name) or LOG_IN_WORDS.search(said.partition("\n")[0])
        if module.name in MATHEMATICS and returns and not re.search(r"\b(?:nats|bits)\b", said):
            yield f"{name} does not say nats or bits"


def test_likelihoods_and_log_variances_have_a_unit() -> None:
    assert complaints(without_unit, PACKAGE) == []


def test_a_missing_unit_is_seen() -> None:
    assert list(without_unit(Module("process", 'def decoder_log_var():\n    """log tb(1, 2)."""')))
    assert list(without_unit(Module("variance", 'def table():\n    """log sigma^2 of every step."""')))
    assert not list(without_unit(Module("process", 'def step_kl():\n    """The divergence, nats per dimension."""')))
    assert not list(without_unit(Module("process", 'def pairs():\n    """The coefficients."""')))


# ---------------------------------------------------------------- registries

REGISTRIES = (
    "VARIANCES SCHEDULES TRAJECTORIES PREDICTIONS OBJECTIVES WEIGHTINGS TIME_SAMPLERS FITS HEAD_SIZES SAMPLERS "
    "PROTOCOLS PARALLEL DATASETS PRESETS ROUNDINGS PREPARATIONS FID_PROTOCOLS"
).split()


def definitions(module: Module) -> dict[str, ast.expr]:
    """The registries that a module defines."""
    found = {}
    for node in module.tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name) and target.id in REGISTRIES and node.value is not None:
                found[target.id] = node.value
    return found


def keys_of(node: ast.expr) -> set[str]:
    """The strings of a list, tuple, set or dict (its keys) that is written out."""
    items = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", [])
    return {item.value for item in items if isinstance(item, ast.Constant) and isinstance(item.value, str)}


def copies(module: Module, registries: dict[str, set[str]]) -> Iterator[str]:
    """A registry's names are not written down a second time."""
    own = definitions(module).values()
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.List | ast.Tuple | ast.Set | ast.Dict) or node in own:
            continue
        for name, keys in registries.items():
            if len(keys) > 1 and keys <= keys_of(node):
                yield f"line {node.lineno} repeats the names of {name}"


def test_every_registry_is_defined_once_and_not_copied() -> None:
    found = [(name, keys_of(node)) for module in PACKAGE for name, node in definitions(module).items()]
    assert sorted(name for name, _ in found) == sorted(REGISTRIES)
    assert all(keys for _, keys in found)
    assert complaints(lambda module: copies(module, dict(found)), PACKAGE, EXPERIMENTS) == []


def test_a_copied_registry_is_seen() -> None:
    registries = {"PREDICTIONS": {"eps", "x_0", "v"}}
    texts = ('N = ["v", "x_0", "eps"]', 'N = {"eps": 1, "x_0": 2, "v": 3}', '("eps", "x_0", "v", "mu")')
    for text in texts:
        assert list(copies(Module("train", text), registries)), text
    assert not list(copies(Module("predict", 'PREDICTIONS = {"eps": 1, "x_0": 2, "v": 3}'), registries))
    assert not list(copies(Module("train", 'NAMES = ["eps", "x_0"]'), registries))
