"""Eight virtual CPU devices, types checked while the tests run, the two schedules most tests use, small data sets."""

import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

# Compiling takes most of the time of the tests: without LLVM's optimisations about a third less, and with XLA's former
# code generator half of that, as long as jaxlib has it (later versions end where they do not know a flag). Tests that
# run their programs for longer than they compile them ask for `optimised`, which is level 1. The switch of
# optimisations is JAX's own and not in the environment: processes that tests start run as a user's would.
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=1"
if version("jaxlib").startswith("0.10."):
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"
# Tests that compile the same program again find it here.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

from jaxtyping import install_import_hook

install_import_hook("ddpm_jax", "beartype.beartype")

import jax
import pytest

from ddpm_jax.data import datasets
from ddpm_jax.diffusion import schedules
from tests import tfds_folder

MAX_MEMORY_MAPS = 10_000  # about 3 GB of programs; Linux allows 65,530
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="module", autouse=True)
def _programs_do_not_pile_up() -> Iterator[None]:
    """Thousands of programs took 9 GB, and more memory maps than Linux gives a process: compiling then crashed.

    Compiling the small ones anew for every module took a twelfth of the tests' time.
    """
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > MAX_MEMORY_MAPS:
        jax.clear_caches()


@pytest.fixture(scope="module")
def _no_program_of_another_module() -> Iterator[None]:
    """JAX takes a program that it has, however it was compiled."""
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.fixture
def optimised(_no_program_of_another_module: None) -> Iterator[None]:
    """Programs are compiled with optimisations: worth it where they run for longer than that takes."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def short():
    """T = 4 with large betas: mistakes that T = 1000 averages away are large here."""
    return schedules.from_betas([0.1, 0.3, 0.5, 0.7])


@pytest.fixture(scope="session")
def linear():
    """Ho et al.'s schedule."""
    return schedules.linear()


@pytest.fixture(scope="session")
def prepared_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small sets as TFDS prepares them."""
    root = tmp_path_factory.mktemp("tfds")
    tfds_folder.prepare_small_sets(root)
    return root


@pytest.fixture
def tfds(prepared_sets: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, where data.load looks for it."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared_sets))
    datasets._of_version.cache_clear()
    return prepared_sets
