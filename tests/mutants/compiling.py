"""Mistakes in what is read off compiled programs, and in how they are kept."""

from tests.mutants.seeded import Mutant

MUTANTS: list[Mutant] = [
    Mutant(
        "given_memory_counted_twice",
        "a result that takes an argument's place needs none of its own",
        "ddpm_jax/program.py",
        "        - memory.alias_size_in_bytes\n",
        "",
        ("tests/test_program.py::test_what_is_given_away_is_counted_once",),
    ),
    Mutant(
        "operands_of_a_gathering_counted",
        "what starts a gathering names its operands, then its results",
        "ddpm_jax/program.py",
        "arrays[len(arrays) // 2 :] if pairs else arrays",
        "arrays",
        ("tests/test_program.py::test_collectives_are_counted_once_with_what_they_result_in",),
    ),
    Mutant(
        "halves_counted_as_wholes",
        "a bfloat16 has two bytes",
        "ddpm_jax/program.py",
        "int(bits[0]) // 8",
        "4",
        ("tests/test_program.py::test_collectives_are_counted_once_with_what_they_result_in",),
    ),
    Mutant(
        "programs_not_kept",
        "a second process compiles nothing",
        "ddpm_jax/compilations.py",
        'jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST)',
        'jax.config.update("jax_persistent_cache_min_compile_time_secs", 1000)',
        ("tests/test_compilations.py::test_a_second_process_compiles_nothing",),
    ),
    Mutant(
        "cores_that_do_not_divide_the_batch",
        "of the cores of a CPU as many work as divide the batch",
        "ddpm_jax/parallel.py",
        "if batch % (n * microbatches) == 0 or n == 1)",
        "if n <= batch)",
        ("tests/test_parallel.py::test_of_the_cores_as_many_work_as_divide_the_batch",),
    ),
    Mutant(
        "one_core_works",
        "every core of a CPU stands as a device, unless the user says how many",
        "ddpm_jax/devices.py",
        "min(here, MOST_CORES)",
        "1",
        ("tests/test_parallel.py::test_every_core_stands_as_a_device_unless_the_user_says_how_many",),
    ),
    Mutant(
        "several_cpu_devices_give_their_state",
        "several devices of a CPU keep the old state",
        "ddpm_jax/devices.py",
        "and len(devices) > 1 else (0,)",
        "and len(devices) > 99 else (0,)",
        ("tests/test_parallel.py::test_one_device_of_a_cpu_takes_the_memory_of_the_old_state",),
    ),
]
