import json
import re
from pathlib import Path

from benchmarks.throughput import table

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_speed_table_is_the_committed_results():
    assert table(json.loads((ROOT / "results" / "throughput.json").read_text())) in README


def test_every_algorithm_is_listed():
    registered = re.findall(r"^    (\w+) = algos\.", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    assert registered
    assert all(f"| `{name}` |" in README for name in registered)


def test_the_citation_is_bibtex():
    (block,) = re.findall(r"```bibtex\n(.*?)```", README, re.DOTALL)
    assert block.count("{") == block.count("}")
    assert block.startswith("@software{offline_rl")
