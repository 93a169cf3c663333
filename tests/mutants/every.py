"""All the mistakes, from the files that list them by subject."""

from tests.mutants import compiling, converting, data, exact, report, running, seeded, tabulated, worlds
from tests.mutants.seeded import Mutant

MUTANTS: tuple[Mutant, ...] = (
    *seeded.MUTANTS,
    *running.MUTANTS,
    *compiling.MUTANTS,
    *converting.MUTANTS,
    *tabulated.MUTANTS,
    *data.MUTANTS,
    *worlds.MUTANTS,
    *exact.MUTANTS,
    *report.MUTANTS,
)
