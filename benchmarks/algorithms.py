"""Write the lists of algorithms in the README and on the site, and what the package knows of their speeds.

``python -m benchmarks.algorithms``: from what the algorithms say of themselves and the committed measurements. The
package shows rates in ``offline-rl algos``, and compiles by default where that was measured to repay itself.
"""

from pathlib import Path

from benchmarks.compile_table import rule
from benchmarks.text import between
from benchmarks.throughput_table import own_lines
from offline_rl.agent import About, algorithms, find_algorithm
from offline_rl.analysis.speeds import SPEEDS, measured_speeds
from offline_rl.analysis.tables import markdown
from offline_rl.files import read_sealed, write_bytes, write_json
from offline_rl.training.mode import REPAID

ROOT = Path(__file__).parent.parent
WAY = ("eager", "native")
"""Mode and kernel whose speed is listed."""


def write(root: Path = ROOT) -> None:
    """Write the two tables, the speeds, and after how many updates compiling is repaid.

    Args:
        root: The repository.
    """
    result, costs = (read_sealed(root / "results" / "throughput" / f"{name}.json") for name in ("cpu", "compiling"))
    rates = {name: lines[WAY]["updates_per_second"] for name, lines in own_lines(result).items() if WAY in lines}
    protocol = f"one seed on one core of {result['hardware']}, eager mode with the native kernel, {result['date']}"
    write_json(root / SPEEDS.relative_to(ROOT), {"rates": rates, "protocol": protocol})
    write_json(root / REPAID.relative_to(ROOT), rule(costs, result))
    for page, table in (("README.md", brief_table()), ("docs/algorithms.md", whole_table())):
        text = (root / page).read_text(encoding="utf-8")
        write_bytes(root / page, between(text, "algorithms", f"{table}\n").encode())


def ours() -> dict[str, About]:
    """Return what the algorithms of ``algos/`` say of themselves, the fastest first, unmeasured ones last."""
    points, rates = algorithms(), measured_speeds().rates
    own = [name for name in points if points[name].value.startswith("offline_rl.algos.")]
    found = {name: find_algorithm(name).about for name in sorted(own, key=lambda name: -rates.get(name, 0.0))}
    if silent := [name for name, about in found.items() if about is None]:
        raise SystemExit(f"{silent[0]} does not say what it is; give its class `about = About(...)`")
    return {name: about for name, about in found.items() if about}


def brief_table() -> str:
    """Return the README's table as Markdown."""
    rows = [[f"[`{name}`](docs/{name}.md)", about.method, about.reference] for name, about in ours().items()]
    return markdown(["Name", "Method", "Paper"], rows)


def whole_table() -> str:
    """Return the site's table as Markdown, with a line on how speed was measured."""
    speeds = measured_speeds()
    rows = [
        [
            f"[`{name}`]({name}.md)",
            about.method,
            about.use_when,
            about.needs,
            "yes" if find_algorithm(name).explores() else "no",
            f"{speeds.rates[name]:,.0f}" if name in speeds.rates else "–",
        ]
        for name, about in ours().items()
    ]
    head = ["Name", "Method", "Use it", "Needs", "Online", "Updates/s"]
    return f"{markdown(head, rows)}\n\nUpdates/s: {speeds.protocol}."


if __name__ == "__main__":
    write()
