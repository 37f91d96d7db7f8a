"""All that is made of a folder of results: tables, aggregates with intervals, figures, and one page to explore."""

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from offline_rl.analysis.comparison import published
from offline_rl.analysis.figures import band, draw_comparison, draw_profiles, score_name, styles
from offline_rl.analysis.groups import Group, conditions, fact, identity, varying
from offline_rl.analysis.results import Result, phase_ends, read_results
from offline_rl.analysis.statistics import (
    Noise,
    best_of,
    bootstrap,
    interquartile_mean,
    interval,
    optimality_gap,
    probability_of_improvement,
    profile,
)
from offline_rl.analysis.tables import MEAN_OF_DATA, Table, markdown, tabulated
from offline_rl.errors import RunError
from offline_rl.files import replace_files

PAGE = Path(__file__).parent / "report.html"
PROFILES = ("profiles.png", "profiles.svg")
"""Drawn if there is a method with results on all datasets."""
DASHES = {"-": "", "--": "7 4", "-.": "7 3 2 3", ":": "2 3"}
"""Matplotlib's line styles as SVG's."""
THRESHOLDS = [float(threshold) for threshold in range(0, 121, 2)]
NO_INTERVAL = (
    "[–]: no interval, because a dataset has a single run, or because its few runs are all alike, which proves nothing."
)
CAVEAT = (
    "IQM: mean of the middle half of all runs. Optimality gap: how far runs fall short of 100. Intervals: 95 %"
    " percentile bootstrap over runs, which are resampled within each dataset (2,000 times, seeded). With few seeds"
    " these intervals are too narrow: in a simulation with three seeds on three tasks, only 75 to 90 of 100 contained"
    f" the true value (`benchmarks/coverage.py`). {NO_INTERVAL} The table above has Student-t intervals, which do not"
    " have this fault."
)
IMPROVEMENT = (
    "Probability that a run of the row scores higher than a run of the column; a tie counts half. Mean over datasets."
)


def report(folder: Path, out: Path | None = None, methods: Sequence[str] = (), metrics: Sequence[str] = ()) -> Path:
    """Write tables (Markdown, LaTeX, CSV), figures (PNG, SVG) and one self-contained page of the results in a folder.

    The same results give the same bytes. For finished runs themselves see :func:`offline_rl.benchmark.report_of`.

    Args:
        folder: Folder of result files.
        out: Where to write; by default the folder itself.
        methods: The methods' order; see :func:`~offline_rl.analysis.groups.grouped`.
        metrics: Training metrics, whose last values get a column each.

    Returns:
        The page.

    Raises:
        RunError: There are no results, one was changed after it was made, or the files cannot be written.
    """
    return write_report(read_results(folder), folder.name, out or folder, methods, metrics)


def write_report(
    results: Sequence[Result], title: str, out: Path, methods: Sequence[str] = (), metrics: Sequence[str] = ()
) -> Path:
    """Write what :func:`report` writes, of results that were read."""
    table = tabulated(results, methods, metrics)
    sections, profiles = _sections(table.groups, table.labels)
    parts = [
        f"# Results: {title}",
        made_of(table),
        str(table),
        *(f"## {name}\n\n{text}" for name, text in sections.items()),
    ]
    texts = {
        "table.md": f"{table}\n",
        "report.md": "\n\n".join(parts) + "\n",
        "report.tex": latex(table),
        "report.csv": comma_separated(table),
        "report.html": page(title, table, sections),
    }
    # All of them or none: tables of one report beside figures of another would not be noticed.
    try:
        with replace_files(out, PROFILES) as new:
            for name, text in texts.items():
                (new / name).write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
            for ending in ("png", "svg"):
                draw_comparison(results, new / f"curves.{ending}", methods)
            for name in PROFILES if profiles else ():
                draw_profiles(profiles, THRESHOLDS, new / name, styles(table.labels))
    except OSError as error:
        raise RunError(f"{out} cannot be written ({error}); choose another --out") from None
    return out / "report.html"


def made_of(table: Table) -> str:
    """Say what a report shows and when it was made: the dates are the results' own, so the words stay the same."""
    results = [result for group in table.groups for result in group.results]
    dates = [result["date"] for result in results if result.get("date")]
    when = " to ".join(dict.fromkeys([min(dates), max(dates)])) if dates else "on dates that they do not record"
    datasets = {group.dataset for group in table.groups}
    parts = [_count(len(results), "run"), _count(len(table.labels), "method"), _count(len(datasets), "dataset")]
    return f"{parts[0]} of {parts[1]} on {parts[2]}, made {when}."


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def _sections(groups: Sequence[Group], labels: Sequence[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Return what stands below the table, as Markdown by its heading, and the performance profiles to draw."""
    scores, datasets, left_out = _scores(groups, labels)
    over = f"Over {', '.join(datasets)}."
    sections, profiles = {}, {}
    if scores:
        rows = [
            [label, _interval(interquartile_mean, tasks), _interval(optimality_gap, tasks)]
            for label, tasks in scores.items()
        ]
        aggregate = markdown(["method", "IQM", "optimality gap"], rows)
        sections["Aggregates"] = "\n\n".join([aggregate, f"{over} {CAVEAT}", *left_out])
        profiles = {label: _profile(tasks) for label, tasks in scores.items()}
    if len(scores) > 1:
        rows = [
            [one, *("–" if one == other else _improvement(scores[one], scores[other]) for other in scores)]
            for one in scores
        ]
        text = f"{over} {IMPROVEMENT} {NO_INTERVAL}"
        sections["Probability of improvement"] = f"{markdown(['P(row beats column)', *scores], rows)}\n\n{text}"
    sections["Seeds and episodes"] = _noise(groups)
    if budget := _budget(groups):
        sections["Best of several settings"] = budget
    if text := published(groups):
        sections["Published numbers"] = text
    sections["Split and empty cells"] = _cells(groups)
    return sections, profiles


def _scores(
    groups: Sequence[Group], labels: Sequence[str]
) -> tuple[dict[str, list[list[float]]], list[str], list[str]]:
    """Return the last scores by method and dataset, the datasets, and why methods are left out.

    Only methods that have one whole cell on every dataset are aggregated, so that all are over the same tasks.
    """
    datasets = list(dict.fromkeys(group.dataset for group in groups))
    found: dict[str, list[list[float]]] = {}
    left_out = []
    for label in labels:
        own = {group.dataset: group.results for group in groups if group.label == label}
        if len(own) < len(datasets):
            left_out.append(f"{label} is left out: no comparable result on {', '.join(sorted({*datasets} - {*own}))}.")
        elif any(result["score_last"] is None for results in own.values() for result in results):
            left_out.append(f"{label} is left out: a seed has diverged.")
        else:
            found[label] = [[result["score_last"] for result in own[dataset]] for dataset in datasets]
    return found, datasets, left_out


def _interval(statistic: Any, *samples: Any) -> str:
    return f"{statistic(*samples):.1f} {_ends(interval(statistic, *samples), 1)}"


def _improvement(ours: Any, theirs: Any) -> str:
    ends = interval(probability_of_improvement, ours, theirs)
    return f"{probability_of_improvement(ours, theirs):.2f} {_ends(ends, 2)}"


def _ends(ends: tuple[float, float] | None, digits: int) -> str:
    """Return an interval in words; one that rounds to a point would read as certainty and is none."""
    low, high = ("", "") if ends is None else (f"{end:.{digits}f}" for end in ends)
    return "[–]" if low == high else f"[{low}, {high}]"


def _profile(tasks: Any) -> list[list[float]]:
    if any(len(runs) < 2 for runs in tasks):
        unknown = [math.nan] * len(THRESHOLDS)
        return [unknown, profile(tasks, THRESHOLDS), unknown]
    low, high = bootstrap(lambda drawn: profile(drawn, THRESHOLDS), tasks, replicates=500)
    return [list(low), profile(tasks, THRESHOLDS), list(high)]


def _noise(groups: Sequence[Group]) -> str:
    rows = []
    for group in groups:
        finals = [result["final"] for result in group.results]
        scales = [_score_per_return(result) for result in group.results]
        if len(finals) < 2 or None in scales or any(final["episodes"] < 2 for final in finals):
            continue
        deviations = [final["return_std"] * scale for final, scale in zip(finals, scales, strict=True)]
        noise = Noise.of([final["score"] for final in finals], deviations, finals[0]["episodes"])
        rows.append([group.dataset, group.label, f"{noise.seeds:.1f}", f"{noise.episodes:.1f}"])
    text = (
        "Standard deviations of one run's score: between seeds, with the episodes' part taken off (0 if nothing is"
        " left), and of its final evaluation over its episodes. More seeds make the first smaller, more episodes the"
        " second."
    )
    return "\n\n".join([markdown(["dataset", "method", "seeds", "episodes"], rows), text] if rows else [text])


def _score_per_return(result: Result) -> float | None:
    """Return by how much the score grows with the return, from the result's own curve; None if it has diverged."""
    points = [(value, score) for _, value, score in result["curve"]]
    if any(None in point for point in points):
        return None
    (low, low_score), (high, high_score) = min(points), max(points)
    return (high_score - low_score) / (high - low) if high > low else None


def _budget(groups: Sequence[Group]) -> str:
    """Return the expected best of several settings, where an algorithm has some that differ in its settings alone."""
    settings: dict[tuple[str, str, str], list[float]] = {}
    for group in groups:
        first, scores = group.results[0], [result["score_last"] for result in group.results]
        if None not in scores:
            key = (group.dataset, first["algorithm"], json.dumps(conditions(first), sort_keys=True))
            settings.setdefault(key, []).append(math.fsum(scores) / len(scores))
    several = {key: means for key, means in settings.items() if len(means) > 1}
    rows = [
        [key[0], key[1], str(len(means)), *(f"{best_of(means, tries):.1f}" for tries in (1, 2, 3, 5, 10))]
        for key, means in several.items()
    ]
    head = ["dataset", "algorithm", "settings", *(f"best of {tries}" for tries in (1, 2, 3, 5, 10))]
    text = "Expected best mean score of so many settings, drawn with replacement from those in the table."
    return f"{markdown(head, rows)}\n\n{text}" if rows else ""


def _cells(groups: Sequence[Group]) -> str:
    """Say which methods have several cells on a dataset, or none, and why."""
    names: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        names.setdefault((group.dataset, group.method), []).append(group)
    lines = []
    for dataset in dict.fromkeys(dataset for dataset, _ in names):
        for method in dict.fromkeys(method for _, method in names):
            own = names.get((dataset, method), [])
            if not own:
                lines.append(f"* {method} on {dataset} is empty: there is no result.")
            if len(own) > 1:
                facts = [conditions(group.results[0]) | identity(group.results[0]) for group in own]
                why = "; ".join(
                    " or ".join(dict.fromkeys(fact(name, each.get(name)) for each in facts))
                    for name in sorted(varying(facts))
                )
                lines.append(f"* {method} on {dataset} is split into {len(own)} rows: {why}.")
    return "\n".join(lines) or "None: every method has one cell on every dataset."


def latex(table: Table) -> str:
    """Return the table for LaTeX's booktabs."""
    lines = [f"\\begin{{tabular}}{{ll{'r' * (len(table.head) - 2)}}}", "\\toprule"]
    rows = [" & ".join(map(_escaped, cells)) + r" \\" for cells in [table.head, *table.rows]]
    return "\n".join([*lines, rows[0], "\\midrule", *rows[1:], "\\bottomrule", "\\end{tabular}", ""])


def _escaped(text: str) -> str:
    for sign in "\\&%$#_{}":
        text = text.replace(sign, "\\textbackslash " if sign == "\\" else f"\\{sign}")
    return text.replace("±", r"$\pm$").replace("–", "--")


def comma_separated(table: Table) -> str:
    """Return one line for each run, with unrounded numbers, for a program to read."""
    head = ["dataset", "method", "seed", "score_last", "score_mean_of_last", "score_best_oracle", "return"]
    head += ["return_std", "final_episodes", "updates_per_second", "seconds", "hardware", "checksum"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    for group in table.groups:
        for result in group.results:
            final, hardware = result["final"], result["hardware"]
            row = [group.dataset, group.label, result["seed"], result["score_last"]]
            row += [result["score_mean_of_last"]["score"], result["score_best"]["score"], final["return"]]
            row += [final["return_std"], final["episodes"], result["updates_per_second"], result["seconds"]]
            writer.writerow([*row, hardware["gpu"] or hardware["machine"], result.get("checksum")])
    return text.getvalue()


def page(title: str, table: Table, sections: dict[str, str]) -> str:
    """Return one HTML page that needs nothing else: a table to sort and filter, and curves to point at."""
    curves = []
    for group in table.groups:
        steps, *bands = band(group.results)
        low, mean, high = ([None if math.isnan(value) else round(value, 3) for value in values] for values in bands)
        first = {"dataset": group.dataset, "method": group.label, "seeds": len(group.results), "steps": steps}
        data = group.results[0]["dataset"]
        about = {"score": score_name(group.results[0]), "data": data["mean_score"], "online": _online_from(group)}
        curves.append({**first, **about, "low": low, "mean": mean, "high": high})
    shown = {name: [style.color, DASHES[style.ls]] for name, style in styles(table.labels).items()}
    data = {"title": title, "about": made_of(table), "head": table.head, "rows": table.rows, "curves": curves}
    data |= {"styles": shown, "own": MEAN_OF_DATA, "facts": "\n".join(table.facts), "sections": sections}
    # A "<" within would end the script element.
    text = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    return PAGE.read_text(encoding="utf-8").replace("{{data}}", text)


def _online_from(group: Group) -> int | None:
    return phase_ends(group.results[0]["options"])[0] if group.online else None
