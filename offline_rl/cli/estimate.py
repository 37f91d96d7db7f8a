"""``offline-rl estimate``."""

import shlex
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offline_rl.arguments import CommandLine, options_class, read_off
from offline_rl.cli.common import print_json
from offline_rl.settings import table_of, types_of

if TYPE_CHECKING:
    from offline_rl.estimation import Interval, Support, ValueEstimate

WIDTH = 80
LISTED = 3
"""Columns that are named of those in which an agent leaves the data."""


def estimate_command(arguments: list[str]) -> None:
    """Estimate what saved agents are worth without a simulator."""
    from offline_rl.estimation.options import EstimateOptions

    def command(
        *, path: str, dataset: str, estimate: Any, out: str | None = None, quiet: bool = False, json: bool = False
    ) -> dict[str, Any]:
        """Estimate what a saved agent, or each agent of a run, is worth by recorded episodes, without a simulator.

        Args:
            path: An agent folder, a run folder, or hf://user/name for an agent on the Hugging Face Hub.
            dataset: The recorded episodes, as train takes them.
            estimate: How it is estimated.
            out: Folder of results, and of a stopped estimate, which goes on; by default RUN/estimates, or estimates.
            quiet: Show no progress.
            json: Print JSON.
        """
        return locals()

    command.__annotations__["estimate"] = options_class(table_of(EstimateOptions))
    own = types_of(EstimateOptions)
    types = {"path": str, "dataset": str, "out": str | None, "quiet": bool, "json": bool, **own}
    line = CommandLine(arguments, types, positional=("path",))
    given = line.parse(command, "offline-rl estimate")
    options = EstimateOptions(**read_off(given.pop("estimate"), own))
    _estimate(**given, options=options)


def _estimate(*, path: str, dataset: str, out: str | None, quiet: bool, json: bool, options: Any) -> None:
    from offline_rl.agent.folder import agent_folders
    from offline_rl.data import load_dataset
    from offline_rl.estimation import estimate
    from offline_rl.estimation.picture import draw_estimates, picture_of
    from offline_rl.estimation.saved import check_place

    folder = Path(out) if out else place_of(path)
    check_place(folder)
    seeds = agent_folders(path)
    agents: dict[str, str | Path] = {f"seed {number}": folder for number, folder in seeds.items()} or {"agent": path}
    data = load_dataset(dataset)
    try:
        found = {
            name: estimate(agent, data, options=options, out=folder, quiet=quiet) for name, agent in agents.items()
        }
    except KeyboardInterrupt:
        print(f"what is done is kept in {folder}; the same command goes on from there", file=sys.stderr)
        raise
    picture = picture_of(found)
    draw_estimates(found, folder / picture)
    if json:
        print_json([{"agent_folder": str(agents[name]), **result.to_json()} for name, result in found.items()])
    else:
        print("\n".join(report_of(path, found)))
        print(f"saved in {folder}, with {picture}")
        print(f"{'next':6}{next_command(path, dataset, list(seeds), list(found.values()))}")


def next_command(path: str, dataset: str, seeds: Sequence[int], found: "Sequence[ValueEstimate]") -> str:
    """Return what one would do next: export the first agent that can be believed, else look for faults of the data."""
    good = [place for place, result in enumerate(found) if result.verdict == "estimate"]
    if not good:
        return f"offline-rl datasets {shlex.quote(dataset)} --check"
    one = f" --seed {seeds[good[0]]}" if len(seeds) > 1 else ""
    return f"offline-rl export {shlex.quote(path)}{one} --out policy.onnx"


def place_of(path: str) -> Path:
    """Return where results go by default: into the run that an agent belongs to, else into the working folder."""
    folder = Path(path)
    runs = (folder, *folder.absolute().parents[1:2])
    return next((run / "estimates" for run in runs if (run / "config.json").is_file()), Path("estimates"))


def report_of(path: str, found: "dict[str, ValueEstimate]") -> list[str]:
    """Return the table of the estimates of one run, and what is to be said of each."""
    first = next(iter(found.values()))
    discount = first.value.discount
    lines = [
        f"{path}: values estimated on {first.dataset}, without a simulator",
        f"  {first.rows:,} rows in {first.episodes:,} episodes; γ = {discount:g}",
        _line("", "value", "less the data's", "verdict"),
    ]
    lines += [_row(name, result.value, result.verdict) for name, result in found.items()]
    lines.append(_line("the data's own policy", _said(first.value.data), "", ""))
    if first.undiscounted:
        lines.append("  undiscounted, because every episode ends")
        for name, result in found.items():
            known = all(flag.kind not in ("undiscounted", "ends") for flag in result.flags)
            lines.append(_row(name, result.undiscounted, "" if known else "not known"))
        lines.append(_line("the data's own policy", _said(first.undiscounted.data), "", ""))
    for name, result in found.items():
        lines += [f"  {name}", *_details(result)]
    return [*lines, "  ± is half of a 90 % interval; an estimate is not a score"]


def kept_estimates(places: Sequence[str]) -> str:
    """Return the tables of all estimates that are kept in some runs; empty if there are none."""
    from offline_rl.estimation.saved import results_in

    tables = []
    for place in places:
        groups: dict[tuple[str, float], dict[str, ValueEstimate]] = {}
        for name, result in results_in(Path(place) / "estimates").items():
            groups.setdefault((result.fingerprint, result.value.discount), {})[name] = result
        tables += ["\n".join(report_of(place, found)) for found in groups.values()]
    return "\n\n".join(tables)


def _row(name: str, value: Any, verdict: str) -> str:
    return _line(name, _said(value.agent), _said(value.difference), verdict)


def _line(what: str, value: str, difference: str, verdict: str) -> str:
    return f"  {what:22}{value:>19}  {difference:>19}  {verdict}".rstrip()


def _said(interval: "Interval") -> str:
    half = interval.half_width
    return f"{interval.mean:.4g}" + (" ± –" if half is None else f" ± {half:.2g}")


def _details(result: "ValueEstimate") -> list[str]:
    """Return what is known of one agent besides its value."""
    facts = []
    if weights := result.importance:
        facts.append(
            f"importance weights: {_said(weights.per_decision)} per decision, {_said(weights.doubly_robust)} doubly"
            f" robust, on {weights.effective_episodes:.1f} effective of {weights.episodes:,} episodes"
        )
    else:
        facts.append(f"no second estimator: {result.no_importance}")
    facts.append(_support(result.support))
    facts += [flag.text for flag in result.flags if flag.kind != "support"]  # which the line before has said
    return [line for fact in facts for line in _wrapped(fact)]


def _support(support: "Support") -> str:
    text = (
        f"support: in {100 * support.share:.0f} % of {support.states:,} states the action is farther from recorded"
        f" ones than {support.threshold:.2g}, which 95 % of recorded actions keep"
    )
    if support.rows:
        actions = ", ".join(f"{name} {value:.2g}" for name, value in list(support.action_columns.items())[:LISTED])
        states = ", ".join(f"{name} {value:.2g}" for name, value in list(support.observation_columns.items())[:LISTED])
        rows = ", ".join(map(str, support.rows[:LISTED]))
        text += f"; there it differs in {actions}; these states stand out by {states} std; rows {rows}, ..."
    return text


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent="    * ", subsequent_indent="      ", break_long_words=False, break_on_hyphens=False
    )


def command_for(run: Path, source: str | None) -> str:
    """Return the command that estimates a run's agents, as one would type it."""
    data = source or "FILE"
    return f"offline-rl estimate {shlex.quote(str(run))} --dataset {shlex.quote(data)}"
