"""What a package says of itself."""

import configparser
import subprocess
import sys
from pathlib import Path

import yaml

import offline_rl as orl

ROOT = Path(__file__).parent.parent


def test_version_is_the_same_everywhere():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    done = subprocess.run([sys.executable, "-m", "offline_rl", "--version"], capture_output=True, text=True, check=True)
    assert {orl.__version__, done.stdout.strip(), citation["version"]} == {setup["metadata"]["version"]}


def test_importing_the_package_loads_nothing_heavy():
    heavy = "{'torch', 'numpy', 'gymnasium', 'importlib.metadata'}"
    code = f"import sys, offline_rl; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_forms_and_workflows_are_yaml():
    """Broken by a form that the host would not show."""
    files = [*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml"]
    assert len(files) >= 5
    for path in files:
        assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict), path
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    setup = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    for version in workflow["jobs"]["test"]["strategy"]["matrix"]["python"]:
        assert f"Programming Language :: Python :: {version}" in setup
