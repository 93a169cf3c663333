"""Find a piece of the package by its meaning and put a wrong one in its place.

Code is compared as syntax trees and found by the name of what it stands in, so that neither its file nor its layout
matters.
"""

import ast
import copy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGE = "ddpm_jax"


class Mistake(NamedTuple):
    """A mistake and the test that must see it.

    Attributes:
      name: what is wrong, in a few words.
      breaks: the formula that no longer holds.
      where: the function, class or constant of a module that it is planted in, with as many dotted names before it as
        tell it apart: "from_betas", "simple.loss".
      right: an expression or a statement; it occurs there exactly once.
      wrong: what takes its place.
      test: the name of the test function that must fail.
    """

    name: str
    breaks: str
    where: str
    right: str
    wrong: str
    test: str


class Place(NamedTuple):
    """A piece of code: its file below the root, the tree of the whole file, and the piece in it."""

    file: Path
    tree: ast.Module
    node: ast.AST


def find(mistake: Mistake, root: Path = ROOT) -> Place:
    """Where the right code of a mistake stands.

    Raises:
      ValueError: nothing has the name, or the right code does not occur exactly once in what has it.
    """
    right = _piece(mistake.right)
    wanted = ast.dump(right)
    named = [place for name, place in _definitions(root) if f".{name}".endswith(f".{mistake.where}")]
    if not named:
        raise ValueError(f"{mistake.name}: nothing in {PACKAGE} is called {mistake.where}")
    found = [
        place._replace(node=node)
        for place in named
        for node in ast.walk(place.node)
        if type(node) is type(right) and ast.dump(node) == wanted
    ]
    if len(found) != 1:
        raise ValueError(f"{mistake.name}: {mistake.right!r} occurs {len(found)} times in {mistake.where}")
    return found[0]


def plant(mistake: Mistake, root: Path = ROOT) -> tuple[Path, str]:
    """The file of a mistake, below the root, and its text with the mistake in it; nothing is written.

    Raises:
      ValueError: see `find`; or an expression is to take the place of a statement, or the other way round.
    """
    place, wrong = find(mistake, root), _piece(mistake.wrong)
    if isinstance(place.node, ast.expr) != isinstance(wrong, ast.expr):
        raise ValueError(f"{mistake.name}: {mistake.right!r} and {mistake.wrong!r} are not of one kind")
    tree, node = copy.deepcopy((place.tree, place.node))
    return place.file, ast.unparse(_Exchange(node, wrong).visit(tree)) + "\n"


def address(test: str, root: Path = ROOT) -> str:
    """What pytest calls the test function of this name, wherever below tests/ it is.

    Raises:
      ValueError: there is none, or there are several.
    """
    files = _tests(root).get(test, [])
    if len(files) != 1:
        raise ValueError(f"{len(files)} test functions are called {test}: {', '.join(files)}")
    return f"{files[0]}::{test}"


class _Exchange(ast.NodeTransformer):
    """One node for another."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> ast.AST:
        return self.new if node is self.old else self.generic_visit(node)


def _piece(source: str) -> ast.expr | ast.stmt:
    """One expression or statement."""
    (statement,) = ast.parse(source).body
    return statement.value if isinstance(statement, ast.Expr) else statement


@cache
def _definitions(root: Path) -> list[tuple[str, Place]]:
    """Everything in the package that has a name of its own, by its dotted name within its module."""
    found = []
    for path in sorted((root / PACKAGE).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [(name, Place(path.relative_to(root), tree, node)) for name, node in _named(tree, "")]
    return found


def _named(parent: ast.AST, prefix: str) -> Iterator[tuple[str, ast.AST]]:
    """Functions and classes at any depth, and what a module assigns."""
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield prefix + node.name, node
            yield from _named(node, f"{prefix}{node.name}.")
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and not prefix:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (
                (part.id, node) for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)
            )
        else:
            yield from _named(node, prefix)


@cache
def _tests(root: Path) -> dict[str, list[str]]:
    """The files that have a test function, by its name."""
    found: dict[str, list[str]] = {}
    for path in sorted((root / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found.setdefault(node.name, []).append(path.relative_to(root).as_posix())
    return found
