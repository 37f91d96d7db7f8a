"""Results beside others: numbers that were published, and two sets of results of one's own."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from offline_rl.analysis.groups import Group, conditions, fact, grouped, identity, varying
from offline_rl.analysis.results import Result
from offline_rl.analysis.statistics import Difference, Estimate, student_t
from offline_rl.analysis.tables import markdown
from offline_rl.errors import RunError

PUBLISHED = Path(__file__).parent / "published.json"
PROTOCOL = {
    "updates": ("{:,} updates", "updates"),
    "episodes": ("{:,} episodes", "episodes"),
    "seeds": ("{:,} seeds", "seeds"),
    "reported": ("the {} agent", "which agent"),
    "spread": ("± of a {}", "which ±"),
    "tuned": ("{}", "tuning"),
}
"""How a source made its numbers, each fact in words, and its name where the source has null, because nobody said."""
FEW = 2.5
"""A success rate moves in steps of 100 / (seeds * episodes): of this size with 4 seeds of 10 episodes."""


def published(groups: Sequence[Group]) -> str:
    """Return our cells on D4RL's tasks beside published ones as Markdown, and below them under which protocol each is.

    Nothing is returned if nothing is published for them.
    """
    rows = published_rows(groups)
    if not rows:
        return ""
    numbers = markdown(["dataset", "method", "ours", "published", "intervals", "source"], rows)
    text = "Numbers of different protocols do not compare. ± of a published number is a standard deviation over seeds."
    if any(row[3].endswith("†") for row in rows):
        text += " †: a multiple of 2.5, which so few episodes give that a single one moves the score by as much."
    return "\n\n".join([numbers, text, "\n".join(_protocols(groups))])


def published_rows(groups: Sequence[Group]) -> list[list[str]]:
    """Return our cells on D4RL's tasks beside published ones, with their source, and whether intervals overlap.

    A file counts as D4RL's by its name, with underscores or hyphens.
    """
    rows = []
    for group, source, found in _found(groups):
        ours = Estimate.of([result["score_last"] for result in group.results])
        text = f"{found[0]} ± {found[1]}" if found[1] is not None else str(found[0])
        if group.dataset.startswith("antmaze") and found[0] % FEW == 0:
            text += " †"
        rows.append([group.dataset, group.label, str(ours), text, _overlap(group, ours, found, source), source["name"]])
    return rows


def _found(groups: Sequence[Group]) -> list[tuple[Group, dict[str, Any], list[Any]]]:
    """Return the groups that have not diverged with each source that has a number for them, and that number."""
    sources = json.loads(PUBLISHED.read_text(encoding="utf-8"))["sources"]
    found = []
    for group in groups:
        algorithm, dataset = group.results[0]["algorithm"], group.dataset.replace("_", "-")
        if any(result["score_last"] is None for result in group.results):
            continue
        for place, source in enumerate(sources):
            if number := source["scores"].get(dataset, {}).get(algorithm):
                facts = source | source.get("exceptions", {}).get(algorithm, {})
                found.append((group, facts | {"place": place}, number))
    return found


def _protocols(groups: Sequence[Group]) -> list[str]:
    """Return a line for each protocol of the numbers that :func:`published_rows` shows."""
    algorithms: dict[tuple[str, str], list[str]] = {}
    for group, source, _ in sorted(_found(groups), key=lambda found: found[1]["place"]):
        own = algorithms.setdefault((source["name"], _protocol(source)), [])
        own += [] if group.results[0]["algorithm"] in own else [group.results[0]["algorithm"]]
    return [f"* {name} ({', '.join(own)}): {protocol}" for (name, protocol), own in algorithms.items()]


def _protocol(source: Mapping[str, Any]) -> str:
    facts = [words.format(source[name]) for name, (words, _) in PROTOCOL.items() if source[name] is not None]
    facts += [f"with {source['variant']}"] if "variant" in source else []
    unknown = [name for fact, (_, name) in PROTOCOL.items() if source[fact] is None]
    parts = [", ".join(facts)] if facts else []
    parts += [f"not known: {', '.join(unknown)}"] if unknown else []
    parts += [f"{source['known']}, {source['source']}"]
    return f"{'; '.join(parts)}. {source.get('note', '')}".rstrip()


def _overlap(group: Group, ours: Estimate, theirs: Sequence[Any], source: dict[str, Any]) -> str:
    if why := _other_protocol(group, source):
        return f"not compared: {why}"
    seeds = source["seeds"]
    if seeds is None or source["updates"] is None:
        return "unknown: their protocol"
    if ours.half_width is None or theirs[1] is None:
        return "unknown: no interval"
    # A population's standard deviation divides by the number of seeds, a sample's by one less.
    error = float(theirs[1]) / (seeds - 1 if source["spread"] == "population" else seeds) ** 0.5
    return "✓ overlap" if abs(ours.mean - theirs[0]) <= ours.half_width + student_t(seeds - 1) * error else "✗ apart"


def _other_protocol(group: Group, source: dict[str, Any]) -> str:
    """Say why our numbers were made in another way than theirs; nothing if they were not, as far as is known."""
    steps, updates = group.results[0]["options"]["steps"], source["updates"]
    if group.results[0]["dynamics"] != "d4rl":
        return "ours on other dynamics"
    if group.online:
        return "ours after a phase in the environment"
    if updates is not None and steps != updates:
        return f"ours after {steps:,} updates, theirs after {updates:,}"
    return f"theirs with {source['variant']}" if "variant" in source else ""


def compare(ours: Sequence[Result], theirs: Sequence[Result]) -> str:
    """Say as Markdown what differs between two sets of results, and whether scores differ by more than noise.

    Cells are paired by dataset and method, even if settings, versions or data differ: these are what is compared, and
    each difference is named. Where either side holds a single method on the same data, these two are a pair.

    Args:
        ours: The first results.
        theirs: The second results; differences are first less second.

    Raises:
        RunError: Nothing is on both sides.
    """
    cells = [_cells(results) for results in (ours, theirs)]
    rows, lines = [], []
    for dataset, name, *both in _pairs(*cells):
        for label, *pair in _alike(name, *both):
            rows.append([dataset, label, *_verdict(pair)])
            lines += [f"* {label} on {dataset}: {text}" for text in _changes(*pair)]
    for which, mine in (("first", 0), ("second", 1)):
        others = cells[1 - mine] if len(cells[0]) > 1 or len(cells[1]) > 1 else cells[mine]
        lines += [f"* {m} on {d} is in the {which} only." for d, m in cells[mine] if (d, m) not in others]
    head = ["dataset", "method", "first", "second", "difference, 95 % interval", "verdict"]
    text = (
        "Last scores: means over seeds ± half the 95 % Student-t interval; the difference's interval is Welch's."
        f"{_by_chance(sum(row[-1].startswith(('within', 'more')) for row in rows))}"
    )
    changed = "\n".join(lines) or "* Nothing that results record."
    return f"{markdown(head, rows)}\n\n{text}\n\nWhat changed, from first to second:\n\n{changed}"


def _pairs(
    ours: dict[tuple[str, str], list[Result]], theirs: dict[tuple[str, str], list[Result]]
) -> list[tuple[str, str, list[Result], list[Result]]]:
    """Return dataset, label and both sides' results of what can be compared, at least one."""
    if found := [(*name, ours[name], theirs[name]) for name in ours if name in theirs]:
        return found
    if len(ours) == len(theirs) == 1:
        ((dataset, name), first), ((_, other), second) = *ours.items(), *theirs.items()
        if _data(first[0]) & _data(second[0]):
            return [(dataset, name if name == other else f"{name} less {other}", first, second)]
    sides = [", ".join(f"{method} on {dataset}" for dataset, method in side) for side in (ours, theirs)]
    raise RunError(
        f"nothing to compare, because the first is {sides[0]} and the second is {sides[1]}; give results of the same"
        " method on the same dataset, or two runs on the same dataset"
    )


def _data(result: Result) -> set[str]:
    """Return by what the same data is known: D4RL's names are written with underscores or hyphens."""
    return {result["dataset"]["name"].replace("_", "-"), result["dataset"]["fingerprint"]}


def _by_chance(comparisons: int) -> str:
    """Say how often comparisons with an interval mislead."""
    if not comparisons:
        return ""
    if comparisons == 1:
        return " Where there is no difference, one comparison in twenty shows one by chance."
    return f" With {comparisons} comparisons, one in twenty differs by chance."


def _cells(results: Sequence[Result]) -> dict[tuple[str, str], list[Result]]:
    cells: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        cells.setdefault((result["dataset"]["name"], result.get("method") or result["algorithm"]), []).append(result)
    return cells


def _alike(name: str, ours: list[Result], theirs: list[Result]) -> list[tuple[str, list[Result], list[Result]]]:
    """Part results of one name that were made with several settings, if with the same ones on both sides."""
    first, second = ({group.label: group.results for group in grouped(results)} for results in (ours, theirs))
    if set(first) != set(second):
        return [(name, ours, theirs)]
    return [(label, first[label], second[label]) for label in first]


def _verdict(pair: Sequence[list[Result]]) -> list[str]:
    scores = [[result["score_last"] for result in results] for results in pair]
    if any(None in values for values in scores):
        return [
            *("a seed diverged" if None in values else str(Estimate.of(values)) for values in scores),
            "–",
            "unknown",
        ]
    if any(len({_condition(result) for result in results}) > 1 for results in pair):
        mixed = "several settings share this name; give folders that hold one"
        return [*(f"{len(values)} runs" for values in scores), "–", mixed]
    difference = Difference.of(*scores)
    shown = [str(Estimate.of(values)) for values in scores]
    if difference.half_width is None:
        why = "too few seeds" if min(map(len, scores)) < 2 else "seeds do not scatter"
        return [*shown, f"{difference.mean:.1f} ± –", f"{why}: no interval"]
    verdict = "within noise" if difference.is_noise else "more than noise"
    few = " (few seeds: only large differences show)" if min(map(len, scores)) < 5 else ""
    return [*shown, f"{difference.mean:.1f} ± {difference.half_width:.1f}", verdict + few]


def _condition(result: Result) -> str:
    return json.dumps([conditions(result), identity(result)], sort_keys=True)


def _changes(ours: list[Result], theirs: list[Result]) -> list[str]:
    """Return each setting, version, fact of the data and of the hardware that is not the same on both sides."""
    first, second = (_facts(results[0]) for results in (ours, theirs))
    if "preset" in ours[0] and "preset" in theirs[0]:  # those of older runs are not known
        first["preset"], second["preset"] = (" and ".join(group[0]["preset"]) or "none" for group in (ours, theirs))
    changes = [f"{fact(n, first.get(n))} → {second.get(n)}" for n in sorted(varying([first, second]))]
    seeds = [sorted(result["seed"] for result in results) for results in (ours, theirs)]
    return changes + ([f"seeds {seeds[0]} → {seeds[1]}"] if seeds[0] != seeds[1] else [])


def _facts(result: Result) -> dict[str, Any]:
    options = {name: value for name, value in result["options"].items() if name != "seeds"}
    made = {"algorithm": result["algorithm"], **options, **conditions(result), **identity(result)}
    return {**made, **result["hardware"], **result["compute"]}
