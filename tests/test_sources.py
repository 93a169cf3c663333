"""What no tool can check of the mathematics: every formula names its source, every logarithm its unit.

A rule goes from a function's name and syntax tree to a complaint, and is shown to complain about made-up text.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ddpm_jax"
MATHEMATICS = [
    *sorted((PACKAGE / "diffusion").glob("*.py")),
    *sorted((PACKAGE / "evaluation/exact").glob("*.py")),
    *(PACKAGE / "evaluation" / name for name in ("moments.py", "likelihood.py", "step_kl.py", "fid/frechet.py")),
]
# These look something up, build or refuse; no formula is their own.
NO_FORMULA = set(
    """
    denoiser.as_argument denoiser.check_prediction denoiser.make_denoiser
    finite_sets.blocks losses.build mixtures.of process.Steps.K process.cast
    schedules.Schedule.T schedules.build schedules.name_of schedules.rows schedules.table schedules.title
    timesteps.explicit timesteps.named random_keys.typed
    registry.named variances.beside variances.build variances.check_steps variances.find variances.heads_of
    variances.needs variances.read_head variances.table
    density.grid
    likelihood.Choices.schedule likelihood.calibrate likelihood.choose likelihood.identity likelihood.likelihoods
    likelihood.rows
    moments.load moments.look moments.save moments.variance_identity moments.visit
    step_kl.best_decoder step_kl.between_nodes step_kl.decoder_between_nodes step_kl.decoder_nodes step_kl.interpolate
    step_kl.needs_table step_kl.nodes step_kl.of_spectrum step_kl.prepare step_kl.tabulate
    """.split()
)
PAPER = (
    r"[A-Z][\w&'-]+(?: et al\.| & [A-Z][\w'-]+)? (?:19|20)\d\d\w?\b[^.]*?"
    r"(?:equation|section|algorithm|theorem|appendix|table|released code)"
)
ARTICLE, EQUATION = r"\b[Tt]he article", r"\S = \S"
SECTIONS = re.compile(r"^(?:Args|Returns|Raises|Attributes):$", re.MULTILINE)
LOGARITHM_BY_NAME = re.compile(r"(?:^|_)(?:kl|log|bits|likelihood|cost|nats)(?:_|$)")
LOGARITHM_IN_WORDS = re.compile(r"\blog (?:sigma|var|density|P\b|tb\b|of the normal mass)")

Rule = Callable[[str, ast.FunctionDef], str | None]


def functions(text: str, module: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    """The public functions and methods of a module, under their dotted names; what lies in a function is its own."""

    def visit(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, ast.FunctionDef]]:
        for node in body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield f"{prefix}.{node.name}", node
            elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield from visit(node.body, f"{prefix}.{node.name}")

    return visit(ast.parse(text).body, module)


def complaints(rule: Rule) -> list[str]:
    """What a rule says of the mathematics."""
    found = []
    for file in MATHEMATICS:
        for name, node in functions(file.read_text(encoding="utf-8"), file.stem):
            complaint = rule(name, node)
            found += [f"{name} {complaint}"] if complaint else []
    return found


def complains(rule: Rule, docstring: str, name: str = "f", body: str = "pass") -> bool:
    """Whether a rule complains about a made-up function."""
    ((name, node),) = functions(f'def {name}():\n    """{docstring}"""\n    {body}', "module")
    return rule(name, node) is not None


def docstring(node: ast.FunctionDef) -> str:
    return ast.get_docstring(node) or ""


def source(name: str, node: ast.FunctionDef) -> str | None:
    """A paper and the place in it, the article, or the formula itself; before Args and Returns."""
    text = " ".join(SECTIONS.split(docstring(node))[0].split())
    named = any(re.search(pattern, text) for pattern in (PAPER, ARTICLE, EQUATION))
    if named and name in NO_FORMULA:
        return "names a source and needs no exception"
    return None if named or name in NO_FORMULA else "names no source"


def unit(name: str, node: ast.FunctionDef) -> str | None:
    """A likelihood, a divergence and a log variance are in nats or in bits; a record of them says so itself."""
    text = docstring(node)
    logarithm = LOGARITHM_BY_NAME.search(node.name) or LOGARITHM_IN_WORDS.search(text.partition("\n")[0])
    if isinstance(node.returns, ast.Name) and node.returns.id == "ReverseVariance":
        return None
    return "does not say nats or bits" if logarithm and not re.search(r"\b(?:nats|bits)\b", text) else None


def raised(name: str, node: ast.FunctionDef) -> str | None:
    """What a function raises itself stands under its Raises."""
    raises = [child.exc for child in ast.walk(node) if isinstance(child, ast.Raise)]
    names = {exc.func.id for exc in raises if isinstance(exc, ast.Call) and isinstance(exc.func, ast.Name)}
    told = docstring(node).partition("\nRaises:\n")[2]
    missing = sorted(exception for exception in names if f"  {exception}: " not in told)
    return f"raises {', '.join(missing)} and does not say so under Raises" if missing else None


@pytest.mark.parametrize("rule", [source, unit, raised])
def test_the_mathematics_says_where_it_is_from(rule: Rule) -> None:
    assert complaints(rule) == []


def test_every_exception_exists() -> None:
    names = {name for file in MATHEMATICS for name, _ in functions(file.read_text(encoding="utf-8"), file.stem)}
    assert names >= NO_FORMULA


@pytest.mark.parametrize(
    ("docstring", "right"),
    [
        ("Ho et al. 2020, equation 7.", True),
        ("Nichol & Dhariwal 2021, section 3.1.", True),
        ("Bao et al. 2022b, section 4.", True),
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
    assert complains(source, docstring) == (not right)


def test_a_missing_unit_is_seen() -> None:
    assert complains(unit, "log tb(1, 2).", "decoder_log_var")
    assert complains(unit, "log sigma^2 of every step.", "table")
    assert not complains(unit, "The divergence, nats per dimension.", "step_kl")
    assert not complains(unit, "The coefficients.", "pairs")


def test_an_exception_that_nobody_tells_of_is_seen() -> None:
    raising = 'raise ValueError("no")'
    assert complains(raised, "F.", body=raising)
    assert complains(raised, "F.\n\n    ValueError: never.\n    ", body=raising)
    assert not complains(raised, "F.\n\n    Raises:\n      ValueError: ever.\n    ", body=raising)
