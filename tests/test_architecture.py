"""Imports run one way, and algorithms read in one order."""

import ast
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
ARCHITECTURE = yaml.safe_load((ROOT / "docs" / "layers.yaml").read_text(encoding="utf-8"))
LAYERS = ARCHITECTURE["layers"]
LAYER_OF = {unit: number for number, layer in enumerate(reversed(LAYERS)) for unit in layer["units"]}
MAY = {tuple(pair) for pair in ARCHITECTURE["may"]}
LOWEST = 0
"""The lowest layer, of which the units may import each other."""


def sources():
    """Return every file of the package and of the benchmarks; `offline_rl/algos` is a link to `algos`."""
    folders = ("offline_rl", "algos", "benchmarks")
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path for path in found if ROOT / "offline_rl" / "algos" not in path.parents]


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("offline_rl", *parts) if parts[0] == "algos" else parts).removesuffix(".__init__")


def unit_of(module):
    """Return the unit that a module belongs to, or None for what stands outside."""
    parts = module.split(".")
    if parts[0] == "benchmarks":
        return "benchmarks"
    return parts[1] if parts[0] == "offline_rl" and len(parts) > 1 else None


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def forbidden(own, imported):
    """Say why a unit may not import another; nothing if it may."""
    if LAYER_OF[imported] > LAYER_OF[own]:
        return f"{own} imports {imported}, which stands above it"
    if LAYER_OF[imported] == LAYER_OF[own] > LOWEST and (own, imported) not in MAY:
        return f"{own} imports its neighbour {imported}"
    return ""


def test_only_commands_print():
    """What the library has to say goes to its logger, so that a program that uses it decides what is shown."""
    said = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources()
        if unit_of(module_of(path)) not in ("cli", "benchmarks")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert said == []


def test_the_training_loop_fits_on_a_screen_or_two():
    """It is the file that a newcomer reads first."""
    assert len((ROOT / "offline_rl" / "training" / "loop.py").read_text().splitlines()) < 80


UNITS = sorted({unit for path in sources() if (unit := unit_of(module_of(path)))} - {"__main__"})


@pytest.mark.parametrize("own", UNITS)
def test_nothing_reaches_up(own):
    paths = [path for path in sources() if unit_of(module_of(path)) == own]
    imported = {(path, unit_of(name)) for path in paths for name in imports_of(path)}
    # What the package itself offers is public; inside, names are imported from where they stand.
    wrong = {
        f"{path}: {why}"
        for path, unit in imported
        if unit in LAYER_OF and (why := forbidden(own, unit)) and unit != own
    }
    assert not wrong


def test_every_unit_has_a_layer_and_every_layer_its_units():
    assert sorted(LAYER_OF) == UNITS


def test_a_forbidden_import_is_found():
    assert forbidden("data", "training") and forbidden("algos", "training") and forbidden("envs", "data")
    assert not forbidden("data", "envs") and not forbidden("cli", "training")


def test_the_contributors_page_shows_the_layers():
    rows = [f"| {' '.join(f'`{unit}`' for unit in layer['units'])} | {layer['what']} |" for layer in LAYERS]
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert "\n".join(rows) in page, "replace the table by:\n" + "\n".join(rows)


ALGORITHMS = [
    path for path in sorted((ROOT / "algos").rglob("*.py")) if path.stem == "agent" or path.parent.name == "algos"
]
ALGORITHMS = [path for path in ALGORITHMS if path.stem != "__init__"]


@pytest.mark.parametrize("path", ALGORITHMS, ids=module_of)
def test_algorithm_files_read_in_one_order(path):
    """Module docstring, Config, class, build, draws, losses, update, policy, PRESETS."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
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


WAITING = {"item", "cpu", "tolist", "randn", "rand", "randint", "rsample", "multinomial", "bernoulli"}


@pytest.mark.parametrize("path", ALGORITHMS, ids=module_of)
def test_nothing_waits_for_the_device_or_draws_inside_an_algorithm(path):
    calls = {
        node.attr for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Attribute)
    }
    assert not calls & WAITING
