"""The documentation site has a place for everything; ``make docs`` checks its links."""

import re
import runpy
from pathlib import Path

import numpy as np
import yaml

import offline_rl as orl
from benchmarks.algorithms import ours
from offline_rl.algos.bc import BC, Config
from offline_rl.arguments import training_types

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAV = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]


def pages(nav):
    """Yield the files that a nav names."""
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from pages(entry)


def test_every_algorithm_has_a_page():
    names = runpy.run_path(str(ROOT / "docs" / "hooks.py"))["ALGORITHMS"]
    assert names == sorted(ours())
    for name in names:
        page = (ROOT / "docs" / f"{name}.md").read_text()
        place = f"algos/{name}.py" if (ROOT / f"algos/{name}.py").exists() else f"algos/{name}/agent.py"
        assert f"`{place}`" in page
        assert f"offline-rl train {name} " in page


def test_every_page_and_every_table_of_results_is_in_the_nav():
    """Broken by a table without a line; a line without a table is a suite's that has not been run."""
    tables = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("results/*/table.md")}
    suites = {f"results/{path.stem}/table.md" for path in ROOT.glob("benchmarks/*.yaml")}
    written = {path.name for path in (ROOT / "docs").glob("*.md")} | {"contribute.md"}  # which is CONTRIBUTING.md
    named = [*pages(NAV), *(f"{name}.md" for name in ours())]
    assert len(named) == len(set(named))
    assert tables | written <= set(named) <= tables | written | suites


def test_every_public_name_is_on_the_page_of_the_api():
    page = (ROOT / "docs" / "api.md").read_text()
    assert {name for name in orl.__all__ if f"::: offline_rl.{name}\n" not in page} == set()


def test_every_option_of_a_command_to_train_is_one():
    commands = re.findall(
        r"offline-rl train ([a-z]\w*) ((?:\\\n|[^`\n#])*)", "".join(page.read_text() for page in PAGES)
    )
    assert len(commands) > 20
    unknown = [
        (algorithm, option)
        for algorithm, rest in commands
        for option in re.findall(r"--(\w+)", rest)
        if option not in {*training_types(algorithm), "config", "help"}
    ]
    assert unknown == []


def test_every_link_from_a_page_to_a_file_leads_to_one():
    links = [(page, link) for page in PAGES for link in re.findall(r"\]\(([^)#:]+)[)#]", page.read_text())]
    assert len(links) > 30
    assert [link for page, link in links if not (page.parent / link).exists()] == []


def test_the_code_on_how_to_reuse_and_deploy_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    agent = BC(Config(hidden_dims=[8]), 11, 3)
    agent.save(tmp_path / "agent")
    pages = "".join((ROOT / "docs" / f"{name}.md").read_text() for name in ("reuse", "deploy"))
    blocks = re.findall(r"```python\n(.*?)```", pages, re.DOTALL)
    code = "".join(blocks).replace("runs/td3_bc-hopper-medium-v2/agents/seed-0", str(tmp_path / "agent"))
    names = {}
    exec(code.replace("episodes=100", "episodes=3").replace(', video="agent.gif"', ""), names)
    assert names["ended"]
    assert names["result"].returns.tolist() == orl.evaluate(agent, "hopper", episodes=3).returns.tolist()
    assert np.allclose(names["actions"], agent.act(names["observation"]), atol=1e-5)


def test_scores_in_sentences_are_those_of_the_committed_tables():
    """Broken by a score ± interval that was typed wrong, or that has changed since."""
    tables = "".join(path.read_text() for path in ROOT.glob("results/*/table.md"))
    for page in PAGES:
        text = re.sub(r"<!-- (\w+): begin -->.*?<!-- \1: end -->", "", page.read_text(), flags=re.DOTALL)
        for score in re.findall(r"\d+\.\d ±\s+\d+\.\d", text):
            assert " ".join(score.split()) in tables, f"{page.name}: {score}"


def test_lines_of_code_are_short_and_comments_stand_above_them():
    """Broken by what a laptop cuts off, or a comment beside a command."""
    for page in PAGES[1:]:
        for language, block in re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            for line in block.splitlines():
                assert len(line) <= 88, f"{page.name}: {line}"
                assert language != "bash" or not re.search(r"\S\s+# ", line), f"{page.name}: {line}"
