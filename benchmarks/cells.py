"""The scores that an algorithm's page shows: its own beside those of its control, and what they mean.

A control is the algorithm that another one extends. Without it one cannot say that the extension is what helps.
"""

from collections.abc import Mapping, Sequence

from benchmarks.text import filled
from offline_rl.analysis.groups import Group, labels
from offline_rl.analysis.statistics import Difference, Estimate
from offline_rl.analysis.tables import markdown

CONTROLS = {
    "prdc": "td3_bc",
    "a2pr": "td3_bc",
    "wpc": "td3_bc",
    "rebrac": "td3_bc",
    "spot": "td3_bc",
    "famo2o": "iql",
    "edac": "sac_n",
}
"""What each algorithm extends."""
NO_RUN = "No run of the suites in `benchmarks/` has ended yet."
PROTOCOL = (
    "Means of the last agents' scores over seeds ± half the 95 % interval (Student's t), on recordings that are not"
    " D4RL's files, so they compare with each other only. All columns, and how they were made: {places}."
)


def cells(algorithm: str, suites: Mapping[str, tuple[Sequence[Group], Sequence[str]]]) -> str:
    """Return an algorithm's scores, and those of its control, as Markdown.

    Args:
        algorithm: Its name.
        suites: For each folder of results, the longest runs first, its groups and the order of its methods.
    """
    control = CONTROLS.get(algorithm)
    datasets = sorted({group.dataset for groups, _ in suites.values() for group in groups})
    rows, sentences, places = [], [], []
    for name, (groups, methods) in suites.items():
        shown = [group for group in groups if group.results[0]["algorithm"] in (algorithm, control)]
        own = [group for group in shown if group.results[0]["algorithm"] == algorithm]
        if not own:
            continue
        updates = f"{own[0].results[0]['options']['steps']:,}"
        rows += [[updates, *row] for row in _rows(shown, methods, datasets)]
        sentences += [_sentence(one, shown, updates, control) for one in own] if control else []
        places.append(f"[{updates} updates](../results/{name}/table.md)")
    if not rows:
        return NO_RUN
    parts = [markdown(["updates", "method", *datasets], rows), filled(PROTOCOL.format(places=", ".join(places)))]
    return "\n\n".join(parts + (["\n".join(sentences)] if sentences else []))


def _rows(groups: Sequence[Group], methods: Sequence[str], datasets: Sequence[str]) -> list[list[str]]:
    found = {(group.label, group.dataset): score(group) for group in groups}
    means = {group.dataset: f"{group.results[0]['dataset']['mean_score']:.1f}" for group in groups}
    rows = [["*mean of the data*", *(means.get(name, "–") for name in datasets)]]
    return rows + [[label, *(found.get((label, name), "–") for name in datasets)] for label in labels(groups, methods)]


def score(group: Group) -> str:
    """Return a cell: mean and interval; one that lacks seeds says so."""
    scores, asked = [result["score_last"] for result in group.results], len(group.results[0]["options"]["seeds"])
    text = f"{scores.count(None)} of {len(scores)} diverged" if None in scores else str(Estimate.of(scores))
    return text if len(scores) == asked else f"{text} ({len(scores)} of {asked} seeds)"


def finished(group: Group) -> list[float]:
    """Return the last scores of a group of which no agent has diverged, else none."""
    scores = [result["score_last"] for result in group.results]
    return [] if None in scores else scores


def _sentence(one: Group, groups: Sequence[Group], updates: str, control: str) -> str:
    """Say how a method's cell stands to the best cell of its control on the same dataset."""
    where = f"* {one.label} on {one.dataset}, {updates} updates:"
    others = [g for g in groups if g.results[0]["algorithm"] == control and g.dataset == one.dataset and finished(g)]
    if not finished(one) or not others:
        return f"{where} {'it diverged' if others else f'there is no run of {control} to compare it with yet'}."
    best = max(others, key=lambda group: Estimate.of(finished(group)).mean)
    apart = Difference.of(finished(one), finished(best))
    if apart.is_noise is None:
        return f"{where} too few seeds to compare it with {best.label}."
    facts = f"{apart.mean:+.1f} ± {apart.half_width:.1f}"
    if apart.is_noise:
        return f"{where} no difference from {best.label} shows ({facts}, Welch's 95 % interval)."
    return f"{where} {'above' if apart.mean > 0 else 'below'} {best.label} ({facts}, Welch's 95 % interval)."
