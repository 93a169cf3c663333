"""The list of mistakes fits the source, and the engine finds code by its meaning."""

import ast
from pathlib import Path

import pytest

from tests.mistakes.__main__ import Outcome, Report, judge
from tests.mistakes.planting import ROOT, Mistake, address, find, plant
from tests.mistakes.seeded import MISTAKES

EACH = pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
SOURCE = '''
"""Made up."""
SIZE, STEP = 3, 4  # two constants

class Steps:
    def count(self):
        return self.last + 1  # of all

def scaled(x):
    def loss(y):
        return (x
                - y) ** 2
    if x > 0:
        x += 1
    return loss
'''


def test_names_are_distinct_and_about_sixty() -> None:
    assert 50 <= len({mistake.name for mistake in MISTAKES}) == len(MISTAKES) <= 70


@EACH
def test_a_mistake_can_be_planted(mistake: Mistake) -> None:
    file, wrong = plant(mistake)
    right = (ROOT / file).read_text(encoding="utf-8")
    assert ast.dump(ast.parse(wrong)) != ast.dump(ast.parse(right))


@EACH
def test_its_test_is_one_function(mistake: Mistake) -> None:
    assert address(mistake.test).startswith("tests/")


def made_up(where: str = "scaled", right: str = "x - y", wrong: str = "x + y", test: str = "test_it") -> Mistake:
    return Mistake("made_up", "a formula", where, right, wrong, test)


def written(root: Path, file: str, text: str) -> Path:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    "where, right, wrong, old, new",
    [
        ("scaled", "x - y", "x + y", "(x\n                - y)", "(x + y)"),
        ("scaled.loss", "(x-y)**2", "x - y", "(x\n                - y) ** 2", "x - y"),
        ("loss", "return (x - y) ** 2", "return 0", "(x\n                - y) ** 2", "0"),
        ("scaled", "x += 1", "x -= 1", "+=", "-="),
        ("Steps.count", "self.last + 1", "self.last", "self.last + 1", "self.last"),
        ("count", "1", "2", "+ 1  # of all", "+ 2"),
        ("Steps", "self.last", "self.first", "self.last", "self.first"),
        ("STEP", "3, 4", "3, 5", "3, 4", "3, 5"),
    ],
)
def test_code_is_found_by_its_meaning(where: str, right: str, wrong: str, old: str, new: str, tmp_path: Path) -> None:
    root = written(tmp_path, "ddpm_jax/deep/steps.py", SOURCE)
    written(root, "ddpm_jax/other.py", "def scaled(z):\n    return z\n")
    file, text = plant(made_up(where, right, wrong), root)
    assert file == Path("ddpm_jax/deep/steps.py")
    assert SOURCE.count(old) == 1
    assert ast.dump(ast.parse(text)) == ast.dump(ast.parse(SOURCE.replace(old, new)))
    assert (root / file).read_text(encoding="utf-8") == SOURCE


@pytest.mark.parametrize(
    "mistake, complaint",
    [
        (made_up(where="lost"), "nothing in ddpm_jax is called lost"),
        (made_up(where="aled"), "nothing in ddpm_jax is called aled"),
        (made_up(right="y - x"), "occurs 0 times in scaled"),
        (made_up(right="1 + 1"), "occurs 0 times in scaled"),
        (made_up(right="y"), "occurs 2 times in scaled"),
        (made_up(where="Steps", right="x - y"), "occurs 0 times in Steps"),
    ],
)
def test_what_is_not_there_exactly_once_is_refused(mistake: Mistake, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"made_up: .*{complaint}"):
        find(mistake, written(tmp_path, "ddpm_jax/steps.py", SOURCE.replace("x += 1", "x += y")))


def test_the_same_code_in_two_functions_of_one_name_is_refused(tmp_path: Path) -> None:
    written(tmp_path, "ddpm_jax/one.py", SOURCE)
    with pytest.raises(ValueError, match="occurs 2 times"):
        find(made_up(), written(tmp_path, "ddpm_jax/other.py", SOURCE))


def test_a_statement_is_no_expression(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not of one kind"):
        plant(made_up(wrong="x += y"), written(tmp_path, "ddpm_jax/steps.py", SOURCE))


def test_a_test_is_found_wherever_it_is_and_once(tmp_path: Path) -> None:
    written(tmp_path, "tests/deep/test_one.py", "def test_it(): ...\ndef test_twice(): ...\n")
    written(tmp_path, "tests/test_other.py", "def test_twice(): ...\n")
    assert address("test_it", tmp_path) == "tests/deep/test_one.py::test_it"
    with pytest.raises(ValueError, match="2 test functions are called test_twice"):
        address("test_twice", tmp_path)
    with pytest.raises(ValueError, match="0 test functions are called test_lost"):
        address("test_lost", tmp_path)


@pytest.mark.parametrize(
    "report, verdict",
    [
        (Report(0, "", "1 passed"), "survived"),
        (Report(1, "assert 1 == 2", ""), "caught"),
        (Report(1, "AssertionError: not equal", ""), "caught"),
        (Report(1, "Failed: DID NOT RAISE <class 'ValueError'>", ""), "caught"),
        (Report(1, "ddpm_jax.somewhere.Unresolved: the grid holds 0.8", ""), "caught"),
        (Report(1, "NameError: name 'x' is not defined", ""), "broken"),
        (Report(1, "", "1 error"), "broken"),
        (Report(2, "assert 1 == 2", ""), "broken"),
        (Report(-1, "", "took more than 300 s"), "broken"),
    ],
)
def test_only_what_an_assertion_says_counts(report: Report, verdict: str) -> None:
    outcome = judge(report)
    assert isinstance(outcome, Outcome) and outcome.verdict == verdict
    assert bool(outcome.why) == (verdict == "broken")
