"""Whether the lowest version that ``setup.cfg`` permits of a package has what is used of it, read from its wheel.

``make floors`` runs the tests on all lowest versions. Where one of them cannot be installed, its wheel can at least be
read, for any platform: ``pip download --no-deps torch==2.7.0``, then ``python -m benchmarks.floors torch-2.7.0-*.whl``.
"""

import ast
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

SOURCES = ("offline_rl", "algos")


def used(package: str, folder: Path) -> set[str]:
    """Return the dotted names of a package that the sources below a folder use."""
    trees = [ast.parse(path.read_text("utf-8")) for place in SOURCES for path in sorted((folder / place).rglob("*.py"))]
    return {name for tree in trees for name in _names(tree) if name.startswith(f"{package}.")}


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def missing(wheel: Path, names: set[str]) -> list[str]:
    """Return the names whose last part stands nowhere in a wheel's Python files: it cannot have these."""
    with zipfile.ZipFile(wheel) as file:
        texts = [
            file.read(name).decode("utf-8", "ignore") for name in file.namelist() if name.endswith((".py", ".pyi"))
        ]
    words = {word for text in texts for word in re.findall(r"\w+", text)}
    return sorted(name for name in names if name.rpartition(".")[2] not in words)


def main() -> int:
    """Look at the wheels that are named; return the exit status."""
    lacking = 0
    for wheel in map(Path, sys.argv[1:]):
        package = wheel.name.split("-")[0].lower()
        names = used(package, Path(__file__).parent.parent)
        names = {name for name in names if not name.startswith("torch.ops.offline_rl")}  # we define these ourselves
        found = missing(wheel, names)
        print(f"{wheel.name}: {len(names)} names are used; it lacks {', '.join(found) or 'none'}")
        lacking += len(found)
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
