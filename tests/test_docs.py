"""The documentation site has a place for everything; ``make docs`` checks its links."""

import re
from pathlib import Path

import yaml

import offline_rl as orl

ROOT = Path(__file__).parent.parent
NAV = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]


def pages(nav):
    """Yield the files that a nav names."""
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from pages(entry)


def test_every_algorithm_has_a_page():
    registered = re.findall(r"^    (\w+) = algos\.", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    assert registered
    (listed,) = (entry["Algorithms"] for entry in NAV if "Algorithms" in entry)
    assert sorted(listed) == sorted(f"{name}.md" for name in registered)
    for name in registered:
        page = (ROOT / "docs" / f"{name}.md").read_text()
        assert f"`algos/{name}.py`" in page
        assert f"offline-rl train {name} " in page


def test_every_page_and_every_table_of_results_is_in_the_nav():
    tables = (path.relative_to(ROOT).as_posix() for path in ROOT.glob("results/*/table.md"))
    written = (path.name for path in (ROOT / "docs").glob("*.md"))
    assert sorted(pages(NAV)) == sorted([*tables, *written])


def test_every_public_name_is_on_the_page_of_the_api():
    page = (ROOT / "docs" / "api.md").read_text()
    assert {name for name in orl.__all__ if f"::: offline_rl.{name}\n" not in page} == set()
