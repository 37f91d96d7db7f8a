"""A result: what one seed of a finished run was trained with, on what, and what it came to, as one small JSON value."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from offline_rl.documents import Least, check
from offline_rl.errors import RunError, quoted
from offline_rl.files import read_sealed, sealed

FORMAT = 2
"""Since 2 a result carries a checksum of its content."""
Result = dict[str, Any]
COPIED = ("algorithm", "config", "options", "task", "dynamics", "compute", "versions", "hardware")
"""What a result takes from its run's ``config.json`` as it is."""
ORIGIN = ("preset", "preset_settings", "preset_reason", "commit")
"""The same, of what runs record since results of format 2 were first made."""

SCORE = (float, None)
"""None is of an agent that has diverged, or of data without a score."""
_OPTIONS = {
    "seeds": [Least(int, 0)],
    "each?": {str: [float]},
    **{name: Least(int, 0) for name in ("steps", "online_steps?", "eval_every", "eval_episodes", "final_episodes")},
}
_REFERENCE = {"score_name": str, "returns": str, "score_0": float, "score_100": float}
_DATASET = {
    "name": str,
    "source": (str, None),
    "fingerprint": str,
    "mode": (str, None),
    "rows": Least(int, 0),
    "episodes": Least(int, 0),
    "mean_return": SCORE,
    "mean_score": SCORE,
    "reference?": (None, _REFERENCE),
}
_OFFLINE: dict[str, Any] = {
    "algorithm": str,
    "config": {str: object},
    "options": _OPTIONS,
    "task": (str, None),
    "dynamics": str,
    "compute": {"device": str, "kernel": str, "mode?": str},
    "versions": {str: (str, None)},
    "hardware": {"machine": str, "cores": (int, None), "gpu": (str, None), "processor?": (str, None)},
    "preset?": [str],
    "commit?": (str, None),
}
_BEFORE = {**_OFFLINE, "dataset": _DATASET}
CONFIG = {**_BEFORE, "offline?": _BEFORE}
"""The shape of a run's ``config.json``."""
_PLAYED = {"step": Least(int, 0), "episodes": Least(int, 1), "return": SCORE, "return_std": SCORE, "score": SCORE}
RESULT: dict[str, Any] = {
    **_BEFORE,
    "format": int,
    "offline_run": (None, _OFFLINE),
    "seed": Least(int, 0),
    "score_last": SCORE,
    "score_mean_of_last": {"evaluations": Least(int, 0), "score": SCORE},
    "score_best": {"step": (int, None), "score": SCORE},
    "offline?": {**_PLAYED, str: SCORE},
    "final": {**_PLAYED, str: SCORE},
    "seconds": Least(float, 0),
    "updates_per_second": SCORE,
    "train": (None, {str: SCORE}),
    "curve": [[Least(int, 0), SCORE, SCORE]],
    **dict.fromkeys(("method?", "note?", "date?"), (str, None)),
}
"""The shape of a result."""


def results_of(run: str, config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[Result]:
    """Make one result for each seed of a finished run.

    Args:
        run: What to call the run in messages.
        config: Its ``config.json``.
        rows: The rows of its ``metrics.jsonl``.

    Raises:
        RunError: The run has not finished, or was made with ``final_episodes`` 0.
    """
    options = config["options"]
    if not options["seeds"]:
        raise RunError(f"{run}/config.json names no seeds, so it is no run's; copy the run again")
    if not (options["final_episodes"] and config.get("offline", config)["options"]["final_episodes"]):
        raise RunError(f"{run} was made with final_episodes 0 and lacks a final score; train it again with some")
    results = []
    for seed in options["seeds"]:
        own = [row for row in rows if row["seed"] == seed]
        final = {row["step"]: row for row in own if row["kind"] == "final"}
        for step in phase_ends(options):
            if step not in final:
                raise RunError(
                    f"{run} is not finished: seed {seed} has no final evaluation at step {step:,}; wait for it, or"
                    f" continue it by offline-rl resume {run}"
                )
        results.append(_result(config_of(config, seed), seed, own, final))
    return results


def config_of(config: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return a run's ``config.json`` as that of the seeds alone which share this one's settings."""
    options = dict(config["options"])
    seeds, each = options["seeds"], options.pop("each", {})
    settings = [{name: values[place] for name, values in each.items()} for place in range(len(seeds))]
    own = settings[seeds.index(seed)]
    options["seeds"] = [other for other, its in zip(seeds, settings, strict=True) if its == own]
    before = {"offline": config_of(config["offline"], seed)} if "offline" in config else {}
    return {**config, "config": {**config["config"], **own}, "options": options, **before}


def phase_ends(options: Mapping[str, Any]) -> list[int]:
    """Return the last step of each phase that there is: of the one on the dataset, and of the online one."""
    total = options["steps"] + options.get("online_steps", 0)
    return sorted({options["steps"], total} - {0})


def _result(
    config: Mapping[str, Any], seed: int, rows: list[Mapping[str, Any]], final: dict[int, Mapping[str, Any]]
) -> Result:
    """Return one seed's result.

    The final evaluation stands for the one along the way that would fall on the same step. The mean of the last
    evaluations (ten, or as many as there are) leaves out the untrained agent and phases before the last. The best score
    is an oracle's: it is chosen by looking at the scores. A score or return is None where the agent has diverged.
    """
    ends = phase_ends(config["options"])
    along = {row["step"]: row for row in rows if row["kind"] == "evaluation"}
    curve = [[step, row["return"], row["score"]] for step, row in sorted({**along, **final}.items())]
    last = [score for step, _, score in curve if step > (0, *ends)[-2]][-10:]
    train = [row for row in rows if row["kind"] == "train"]
    best = max((point for point in curve if point[2] is not None), key=lambda point: point[2], default=None)
    played = [_without(final[step], "kind", "seed", "seconds") for step in ends]
    finals = dict(zip(("offline", "final")[-len(ends) :], played, strict=True))
    result = {
        "format": FORMAT,
        **{name: config[name] for name in COPIED},
        **{name: config[name] for name in ORIGIN if name in config},
        "dataset": _dataset(config["dataset"]),
        "offline_run": _offline_run(config),
        "seed": seed,
        "score_last": finals["final"]["score"],
        "score_mean_of_last": {"evaluations": len(last), "score": None if None in last else sum(last) / len(last)},
        "score_best": {"oracle": True, "step": best[0] if best else None, "score": best[2] if best else None},
        **finals,
        "seconds": max(row["seconds"] for row in rows),
        "updates_per_second": updates_per_second(train, ends[0]),
        "train": _without(train[-1], "kind", "seed", "seconds") if train else None,
        "curve": curve,
    }
    return sealed(result)


def updates_per_second(train: Sequence[Mapping[str, Any]], steps: int) -> float | None:
    """Return the updates that one seed makes on the dataset in a second of its run; None if no time lies between rows.

    Taken from its first to its last row of training metrics, so without start-up and final episodes. It is no speed of
    the algorithm alone: in the same seconds the run's other seeds are trained, side by side or in turns, and the
    evaluations along the way are played.

    Args:
        train: The seed's rows of training metrics.
        steps: Where the updates on the dataset end.
    """
    rows = [row for row in train if row["step"] <= steps]
    elapsed = rows[-1]["seconds"] - rows[0]["seconds"] if rows else 0
    return float((rows[-1]["step"] - rows[0]["step"]) / elapsed) if elapsed else None


def read_results(folder: Path) -> list[Result]:
    """Read the results in a folder, in the order of their file names.

    Raises:
        RunError: There are none, or a file is none.
    """
    if is_run(folder):
        raise RunError(
            f"{folder} is a run, not a folder of results; offline-rl results collect {folder} --out FOLDER makes"
            f" results of it, and offline-rl report {folder} --out FOLDER a report"
        )
    if not folder.is_dir():
        raise RunError(f"there is no folder {folder}; name a folder of results, or a run")
    results = [read_result(path) for path in sorted(folder.glob("*.json"))]
    if not results:
        if any(folder.glob("*/config.json")):
            raise RunError(
                f"{folder} holds runs, not result files; name the runs: offline-rl report {folder / '*'} --out FOLDER"
            )
        raise RunError(
            f"{folder} holds no results; make some from finished runs by offline-rl results collect RUN..."
            f" --out {folder}, or give the runs themselves to offline-rl report RUN... --out FOLDER"
        )
    return results


def is_run(folder: Path) -> bool:
    """Say whether a folder is that of a run."""
    return (folder / "config.json").is_file()


def read_result(path: Path) -> Result:
    """Read one result, and see that nobody has changed it; see :func:`read_results`."""
    result = read_sealed(path)
    if (version := result.get("format")) != FORMAT:
        what = f"of format {quoted(version)}" if "score_last" in result else "no result"
        raise RunError(f"{path} cannot be read (it is {what}, not a result of format {FORMAT}); make it from its run")
    try:
        check(result, RESULT)
    except ValueError as error:
        raise RunError(f"{path} cannot be read ({error}); make it again from its run") from None
    return result


def _dataset(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of the data's place what is this machine's own."""
    source = dataset["source"]
    if source != dataset["name"]:  # what is named so everywhere, such as a Minari id, is no place
        source = source and "+".join(Path(part).name for part in source.split("+"))
    return {**dataset, "source": source}


def _offline_run(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the run before was made with, if this one went on online with the agents of another run."""
    return {name: config["offline"][name] for name in COPIED} if "offline" in config else None


def _without(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}
