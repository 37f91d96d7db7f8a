"""The house: imports run one way, floor by floor, and an algorithm file stays readable."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = [
    {f"offline_rl.{name}" for name in ("errors", "documents", "files", "folders", "cores", "draws", "settings")}
    | {f"offline_rl.{name}" for name in ("interpreter", "launchers", "origin")},
    {"offline_rl.networks", "offline_rl.data", "offline_rl.envs", "offline_rl.analysis", "offline_rl.launch"},
    {"offline_rl.export", "offline_rl.agent_files", "offline_rl.hub"},
    {"offline_rl.agent"},
    {"offline_rl.sequence"},
    {"algos", "offline_rl.training"},
    {"offline_rl.benchmark", "offline_rl.collection"},
    {"offline_rl.arguments"},
    {"offline_rl.sweep"},
    {"offline_rl.cli", "offline_rl.__main__"},
    {"benchmarks"},
]
ALLOWED_ON_ONE_FLOOR = {
    ("offline_rl.__main__", "offline_rl.cli"),
    ("offline_rl.data", "offline_rl.envs"),
    ("offline_rl.networks", "offline_rl.data"),
    ("offline_rl.hub", "offline_rl.agent_files"),
}
"""Pairs of neighbours of which the first may import the second."""


def sources():
    folders = ("offline_rl", "algos", "benchmarks")
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def unit_of(module):
    """Return the box of the house that a module belongs to, or None for what stands outside."""
    parts = module.split(".")
    if parts[0] in ("algos", "benchmarks"):
        return parts[0]
    return ".".join(parts[:2]) if parts[0] == "offline_rl" and len(parts) > 1 else None


def floor_of(unit):
    return next(number for number, units in enumerate(FLOORS) if unit in units)


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_nothing_reaches_up(path):
    own = unit_of(module_of(path))
    if own is None:
        return  # the package itself names its public modules, and loads them when they are used
    for imported in imports_of(path):
        unit = unit_of(imported)
        if unit is None or unit == own:
            continue
        assert floor_of(unit) <= floor_of(own), f"{own} imports {unit}, which is above it"
        if floor_of(unit) == floor_of(own) and floor_of(own) > 0:
            assert (own, unit) in ALLOWED_ON_ONE_FLOOR, f"{own} imports its neighbour {unit}"


@pytest.mark.parametrize("path", sorted((ROOT / "algos").glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_algorithm_files_read_in_one_order(path):
    """Module docstring, Config, class, build, draws, losses, update, policy, PRESETS."""
    text = path.read_text()
    body = ast.parse(text).body
    assert isinstance(body[0], ast.Expr), "the file begins with its docstring"
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    assert classes[0].name == "Config"
    order = ["build", "draws", "prepare", "update", "policy"]
    for algorithm in classes:
        names = [node.name for node in algorithm.body if isinstance(node, ast.FunctionDef)]
        assert [name for name in names if name in order] == [name for name in order if name in names]
    places = [
        len(algorithm.body) - place
        for algorithm in classes
        for place, node in enumerate(algorithm.body)
        if isinstance(node, ast.AnnAssign) and node.target.id == "PRESETS"
    ]
    # One class is the algorithm, others may be its branches; PRESETS stand at the end, before their docstring.
    assert len(places) == 1
    assert places[0] <= 2


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_nothing_waits_for_the_device_inside_an_algorithm(path):
    if path.parent.name == "algos":
        calls = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert not calls & {"item", "cpu", "tolist", "randn", "rand", "randint", "rsample", "multinomial", "bernoulli"}
