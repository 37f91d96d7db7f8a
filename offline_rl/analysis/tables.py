"""Results as a Markdown table: means over seeds with their intervals, and the facts without which they say nothing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from offline_rl.analysis.groups import Group, conditions, fact, final_episodes, grouped, labels, varying
from offline_rl.analysis.results import Result
from offline_rl.analysis.statistics import Estimate

MEAN_OF_DATA = "mean of the data"
"""In the place of a method, in the row that says what the data itself scores."""
BAR = r"\|"
"""How a bar within a cell is written."""


@dataclass(frozen=True)
class Table:
    """Results in cells, for every format that shows them.

    Attributes:
        head: Names of the columns.
        rows: Cells of each row; each dataset begins with the row of its own mean.
        groups: The groups that the rows show, each once, in their order.
        labels: The groups' labels in the order of tables and figures.
        facts: What stands below, in Markdown.
    """

    head: list[str]
    rows: list[list[str]]
    groups: list[Group]
    labels: list[str]
    facts: list[str]

    def __str__(self) -> str:
        return "\n".join([markdown(self.head, self.rows), "", *self.facts])


def table(results: Sequence[Result], methods: Sequence[str] = (), metrics: Sequence[str] = ()) -> str:
    """Return results as Markdown; see :func:`tabulated`."""
    return str(tabulated(results, methods, metrics))


def tabulated(results: Sequence[Result], methods: Sequence[str] = (), metrics: Sequence[str] = ()) -> Table:
    """Return a row for each group of results, and below the rows what they mean.

    Args:
        results: What to show.
        methods: Their order; see :func:`~offline_rl.analysis.groups.grouped`.
        metrics: Training metrics, whose last values get a column each.
    """
    groups = grouped(results, methods)
    online = any(group.online for group in groups)
    scores = ["score after offline", "score after online"] if online else ["score"]
    head = ["dataset", "method" if methods else "algorithm", *scores, "return"]
    head += [*(name.replace("_", " ") for name in metrics), "seeds", "updates/s", "hours"]
    head += ["mean of last 10", "best (oracle)", "final episodes"]
    rows: list[list[str]] = []
    for place, group in enumerate(groups):
        if place == 0 or group.dataset != groups[place - 1].dataset:
            rows += _of_data([other for other in groups if other.dataset == group.dataset], len(scores), len(head))
        first, *others = _targets(group) or [""]
        label = f"{group.label}, asked for {first}" if first else group.label
        cells = [group.dataset, label, _mean(group, "offline" if group.online else "final", "score")]
        if online:
            cells.append(_mean(group, "final", "score") if group.online else "–")
        cells += [_mean(group, "final", "return"), *(_last(group, name) for name in metrics)]
        cells += [str(len(group.results)), _rate(group), _hours(group)]
        cells += [_mean(group, "score_mean_of_last", "score"), _mean(group, "score_best", "score")]
        rows.append([*cells, final_episodes(group.results[0])])
        rows += [_asked_for(group, name, len(head), len(metrics)) for name in others]
    return Table(head, rows, groups, labels(groups, methods), _facts(groups, methods))


def _of_data(groups: Sequence[Group], scores: int, width: int) -> list[list[str]]:
    """Return the row of a dataset's own mean; several, if data of several scores bears one name."""
    rows = []
    for group in groups:
        data = group.results[0]["dataset"]
        score = "–" if data["mean_score"] is None else f"{data['mean_score']:.1f}"
        if data["mean_return"] is None:
            continue  # there was no dataset
        cells = [group.dataset, MEAN_OF_DATA, *[score] * scores, f"{data['mean_return']:.1f}"]
        if (row := cells + ["–"] * (width - len(cells))) not in rows:
            rows.append(row)
    return rows


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join([_row(head), "|" + "---|" * len(head), *(_row(cells) for cells in rows)])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |"


def _targets(group: Group) -> list[str]:
    """Return the returns that agents were asked for, if there were several; the first one's score is the score."""
    return [name.removeprefix("score/") for name in group.results[0]["final"] if name.startswith("score/")]


def _asked_for(group: Group, name: str, width: int, metrics: int) -> list[str]:
    cells = [group.dataset, f"{group.label}, asked for {name}", _mean(group, "final", f"score/{name}")]
    cells += ["–"] * (width - 10 - metrics)
    seeds, episodes = str(len(group.results)), final_episodes(group.results[0])
    return [*cells, _mean(group, "final", f"return/{name}"), *["–"] * metrics, seeds, "–", "–", "–", "–", episodes]


def _last(group: Group, metric: str) -> str:
    """Return the mean of a training metric's last values; a dash where the method has none."""
    values = [result["train"][metric] for result in group.results if (result["train"] or {}).get(metric) is not None]
    return Estimate.of(values).rounded(2) if len(values) == len(group.results) else "–"


def _mean(group: Group, phase: str, name: str) -> str:
    values = [result[phase][name] for result in group.results]
    if lost := values.count(None):
        return f"{lost} of {len(values)} diverged"
    return str(Estimate.of(values))


def _rate(group: Group) -> str:
    rates = [result["updates_per_second"] for result in group.results if result["updates_per_second"] is not None]
    return f"{sum(rates) / len(rates):.1f}" if rates else "–"


def _hours(group: Group) -> str:
    return f"{sum(result['seconds'] for result in group.results) / len(group.results) / 3600:.2f}"


def settings_by_dataset(groups: Sequence[Group], methods: Sequence[str] = ()) -> list[str]:
    """Say for each method which settings it owes to presets, and which it does not have on every dataset.

    Methods come in their order, see :func:`~offline_rl.analysis.groups.grouped`. Results of older runs do not record
    presets; of those only the differences are known.
    """
    lines, alike = [], []
    for label in labels(groups, methods):
        own = [group for group in groups if group.label == label]
        firsts = [group.results[0] for group in own]
        if any(first.get("preset") for first in firsts):
            lines.append(f"{label}: settings from {_by_value([_preset(first) for first in firsts], own)}")
        elif apart := sorted(varying(first["config"] for first in firsts)):
            values = [", ".join(fact(name, first["config"].get(name)) for name in apart) for first in firsts]
            lines.append(f"{label}: {_by_value(values, own)}")
        else:
            alike.append(label)
    several = len({group.dataset for group in groups}) > 1
    return lines + ([f"{', '.join(alike)}: the same settings on every dataset"] if alike and several else [])


def _preset(result: Result) -> str:
    if not result.get("preset"):
        return "no preset"
    kept = ", ".join(f"{name} {value}" for name, value in result["preset_settings"].items())
    return f"preset {' and '.join(result['preset'])} ({kept or 'all of them given by hand'})"


def _by_value(values: Sequence[str], groups: Sequence[Group]) -> str:
    """Return each value with the datasets that have it."""
    places = {value: [g.dataset for g, own in zip(groups, values, strict=True) if own == value] for value in values}
    return "; ".join(f"{value} on {', '.join(datasets)}" for value, datasets in places.items())


def _facts(groups: Sequence[Group], methods: Sequence[str]) -> list[str]:
    """Return the lines under the table."""
    results = [result for group in groups for result in group.results]
    apart = varying(conditions(result) for result in results)
    shared = [fact(name, value) for name, value in conditions(results[0]).items() if name not in apart]
    trained = _distinct(str(len(result["options"]["seeds"])) for result in results)
    return [
        "Each score is a mean over seeds ± half of its 95 % confidence interval (Student's t). Each seed counts with"
        " its last agent, not with its best, and with the mean of its final episodes. Two intervals that overlap do not"
        " show that two methods are equal.",
        "",
        f"* All rows: {', '.join(shared)}.",
        *(f"* {text}." for text in settings_by_dataset(groups, methods)),
        *(f"* Data: {text}." for text in _distinct(_data(result) for result in results)),
        f"* Hardware: {'; '.join(_distinct(_hardware(result) for result in results))}.",
        "* Updates/s: updates of one agent per second of the run on the dataset, evaluations included, while all seeds"
        f" of the run ({' or '.join(trained)}) were trained together.",
        "* Hours: duration of the run, evaluations included. Mean of last 10: mean of the last 10 evaluations during"
        " training, or of all if there were fewer. Best: the highest evaluation of each seed; it cannot be chosen"
        " without the simulator, so do not compare it with other columns.",
        "* Results share a row only if they agree in the algorithm's settings, task, data, dynamics, steps, "
        "evaluations, final episodes and versions. Otherwise the row's name says what differs.",
        *(f"* Note: {note}" for note in _distinct(result["note"] for result in results if result.get("note"))),
    ]


def _data(result: Result) -> str:
    data, mean = result["dataset"], result["dataset"]["mean_score"]
    if not data["rows"]:
        return f"{data['name']}, which is no data at all"
    score = "no score" if mean is None else f"mean score {mean:.1f}{_references(data.get('reference'))}"
    return (
        f"{data['name']}, {data['rows']:,} rows, {data['episodes']:,} episodes of {score}, mode {data['mode']},"
        f" fingerprint {data['fingerprint'][:12]}"
    )


def _references(reference: Mapping[str, Any] | None) -> str:
    """Say what scores 0 and 100 where that is not D4RL's."""
    if reference is None or reference["returns"].startswith("D4RL"):
        return ""
    return f" (0 is {reference['score_0']:.1f} and 100 is {reference['score_100']:.1f}: {reference['returns']})"


def _hardware(result: Result) -> str:
    hardware, compute = result["hardware"], result["compute"]
    machine = hardware["gpu"] or hardware.get("processor") or hardware["machine"]
    return f"{machine}, {hardware['cores']} cores, trained on {compute['device']} (kernel {compute['kernel']})"


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))
