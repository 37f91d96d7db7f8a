"""A suite: which methods are trained on which datasets, and what comes of it; ``offline-rl benchmark SUITE.yaml``.

A suite runs what is missing. A run that was killed goes on from its checkpoint, a result that is there is not made
again, and one that was made with other settings is refused. Several processes, on one machine or many that share a
disk, may run the same suite: each takes what no other is doing.
"""

import contextlib
import dataclasses
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from offline_rl.agent import find_algorithm, upgraded
from offline_rl.analysis.bandit import Pool, write_bandit
from offline_rl.analysis.comparison import compare as compare_results
from offline_rl.analysis.figures import score_name
from offline_rl.analysis.groups import conditions, identity, varying
from offline_rl.analysis.report import report as report_folder
from offline_rl.analysis.report import write_report
from offline_rl.analysis.results import Result, is_run, read_result, read_results, results_of
from offline_rl.analysis.tables import table
from offline_rl.data import d4rl
from offline_rl.data.kinds import stem
from offline_rl.documents import check as check_shape
from offline_rl.documents import read_yaml
from offline_rl.errors import DivergedError, OfflineRLError, RunError, RunInUseError, quoted, suggestion
from offline_rl.files import replace_files, sealed, write_bytes, write_json
from offline_rl.training.evaluation import evaluate
from offline_rl.training.options import TrainOptions
from offline_rl.training.plan import split_settings
from offline_rl.training.preset import named_preset
from offline_rl.training.run import Run, train

logger = logging.getLogger(__name__)
Protocol = Literal["scores", "bandit"]
"""What a report is about."""
WAIT_SECONDS = 1.0
"""How long a process waits for others when they do all that is left."""
KEYS = ("datasets", "options", "methods", "metrics", "note")
METHOD = {"algorithm": str, "datasets?": [str], str: object}
SHAPE = {"datasets": [str], "options?": {str: object}, "methods": {str: METHOD}, "metrics?": [str], "note?": str}
"""Of a suite; what options and settings mean is checked like that of any run."""
OWN = ("out", "resume", "dataset")
"""Options of a run that a suite sets itself."""
NAME_LIMIT = 200
"""Bytes of the name of a file of results, to which some are added while it is written."""


@dataclass(frozen=True)
class Suite:
    """Methods, each of which is trained on every dataset, or on those that it names.

    Attributes:
        name: The file's, without its ending.
        datasets: D4RL ids, or files below a folder that is named when the suite is run; "a+b" joins two.
        options: Of every run; fields of :class:`~offline_rl.training.options.TrainOptions`. ``preset`` may also be
            given by dataset, ``{hopper_medium_replay.hdf5: hopper-medium-replay-v2}``, here or for a method.
        methods: By its name in the table, each method's ``algorithm`` and the settings that are not its default; one
            with ``datasets`` is trained on these alone. The first method is run first, on all its datasets.
        metrics: Training metrics whose last values stand in the table, too.
        note: A remark that results keep and the table shows, such as how the data was made.
    """

    name: str
    datasets: list[str]
    options: dict[str, Any]
    methods: dict[str, dict[str, Any]]
    metrics: list[str]
    note: str | None = None

    @property
    def seeds(self) -> list[int]:
        """The seeds of every run."""
        return TrainOptions(**{**self.options, "preset": None}).seeds


def read_suite(path: Path) -> Suite:
    """Read a suite from YAML.

    Raises:
        RunError: The file cannot be read, or something in it is unknown or missing.
    """
    values = read_yaml(path, RunError, "write datasets, options and methods as the suites in benchmarks/ do")
    if not isinstance(values, dict) or not values.get("datasets") or not values.get("methods"):
        raise RunError(f"{path} is no suite; it needs datasets, a list, and methods, each with an algorithm")
    for name in values:
        if name not in KEYS:
            raise RunError(f"{path}: unknown key {quoted(str(name))}{suggestion(str(name), KEYS)}")
    try:
        check_shape(values, SHAPE)
        suite = Suite(path.stem, **{"options": {}, "metrics": [], **values})
        _check_suite(suite)
    except (ValueError, OfflineRLError) as error:
        raise RunError(f"{path}: {error}") from None
    return suite


def _check_suite(suite: Suite) -> None:
    """Refuse what no run could be made with, before the first begins."""
    known = {field.name for field in dataclasses.fields(TrainOptions)}
    for name in suite.options:
        if name not in known:
            raise RunError(f"options: unknown option {quoted(name)}{suggestion(name, known)}; settings go to methods")
    TrainOptions(**{**suite.options, "preset": None})
    if own := [name for name in OWN if name in suite.options]:
        raise RunError(f"options: {own[0]} is the suite's own to choose; leave it out, and give --results and --runs")
    if "" in suite.datasets:
        raise RunError("datasets has an empty name; give D4RL ids or files")
    files: dict[str, str] = {}
    for name in suite.methods:
        if (other := files.setdefault(_words(name), name)) != name:
            raise RunError(f"methods {quoted(other)} and {quoted(name)} want the same result files; rename one of them")
    for name, method in suite.methods.items():
        for dataset in _datasets(suite, method):
            algorithm, settings = _settings(suite, dataset, method)
            asked = split_settings(algorithm, settings)[1]
            find_algorithm(algorithm, asked).config_class.of(asked)
            if len(_file_name(_stem(dataset), name, 0).encode()) > NAME_LIMIT:
                raise RunError(f"the names {quoted(name)} and {quoted(dataset)} are too long for a file of results")


def run_suite(suite: Suite, *, data: Path | None, results: Path, runs: Path) -> list[Result]:
    """Train what is missing, and write one small result file for each seed of each run.

    Args:
        suite: What to run.
        data: Folder of the suite's files; without it they are looked for where they are named.
        results: Folder of the result files.
        runs: Folder of the runs, which may be large; a suite that is run again goes on with what it finds there.

    Returns:
        All results of the suite.

    Raises:
        OfflineRLError: A result was made with other settings, or a run failed.
    """
    jobs = _jobs(suite)
    check(suite, results)
    total = len(missing(suite, results))
    while left := missing(suite, results):
        if not any(_run(suite, *job, data, results, runs, f"{total - len(left) + 1}/{total}") for job in left):
            time.sleep(WAIT_SECONDS)
    return [read_result(path) for job in jobs for path in result_paths(suite, *job, results)]


def missing(suite: Suite, results: Path) -> list[tuple[str, str]]:
    """Return the datasets and methods that lack a result."""
    return [job for job in _jobs(suite) if not all(path.exists() for path in result_paths(suite, *job, results))]


def _jobs(suite: Suite) -> list[tuple[str, str]]:
    return [(dataset, name) for name, method in suite.methods.items() for dataset in _datasets(suite, method)]


def _datasets(suite: Suite, method: Mapping[str, Any]) -> list[str]:
    """Return the datasets of a method.

    Raises:
        RunError: It names one that is not the suite's.
    """
    own: list[str] = method.get("datasets", suite.datasets)
    if unknown := [name for name in own if name not in suite.datasets]:
        known = suggestion(unknown[0], suite.datasets)
        raise RunError(f"datasets: {quoted(unknown[0])} is no dataset of the suite{known}")
    return own


def _run(  # noqa: PLR0917
    suite: Suite, dataset: str, method: str, data: Path | None, results: Path, runs: Path, place: str
) -> bool:
    """Train a method on a dataset, unless another process does; say whether there was something to do."""
    paths = result_paths(suite, dataset, method, results)
    if all(path.exists() for path in paths):
        return True
    out = runs / suite.name / _words(f"{_stem(dataset)} {method}")
    algorithm, settings = _settings(suite, dataset, suite.methods[method])
    try:
        with _claimed(out):
            if all(path.exists() for path in paths):  # another process has finished it since we looked
                return True
            logger.info("[%s] %s, %s", place, dataset, method)
            run = train(algorithm, located(dataset, data), **settings, out=str(out), resume=out.exists())
            collect((run.path,), out=results, method=method, note=suite.note)
    except RunInUseError:
        return False
    return True


@contextlib.contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """Keep other processes of the suite away from a run, also while it is only about to begin."""
    from filelock import FileLock, Timeout

    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out.with_name(f".{out.name}.lock"), timeout=0):
            yield
    except Timeout:
        raise RunInUseError(f"{out} is in use by another process") from None


def suite_table(suite: Suite, results: Sequence[Result]) -> str:
    """Return the results of a suite as Markdown, in the order of its datasets and methods."""
    return table(results, methods=list(suite.methods), metrics=suite.metrics)


def result_paths(suite: Suite, dataset: str, method: str, folder: Path) -> list[Path]:
    """Return where the results of a method on a dataset belong, one for each seed."""
    return [folder / _file_name(_stem(dataset), method, seed) for seed in suite.seeds]


def located(dataset: str, folder: Path | None) -> str:
    """Return a suite's dataset with the folder before those of its parts that are files there."""
    parts = dataset.split("+")
    return "+".join(str(folder / part) if folder and (folder / part).is_file() else part for part in parts)


def collect(runs: Sequence[Path], *, out: Path, method: str | None = None, note: str | None = None) -> list[Path]:
    """Write one result file for each seed of finished runs; nothing at all if one of them cannot be taken.

    A result's date is the day on which its run's record was written last.

    Args:
        runs: The runs' folders.
        out: Folder of the result files.
        method: What the table, and their files' names, call them; by default their algorithm.
        note: A remark on how the runs were made; the table shows it.

    Returns:
        The files.

    Raises:
        RunError: A run has not finished, two runs want the same file, or a result would take the place of one that was
            made with other settings or came to another score.
    """
    if not runs:
        raise RunError("no run is named; give the folder of at least one")
    found: dict[Path, tuple[Path, Result]] = {}
    for path in dict.fromkeys(runs):
        run = Run(path)
        config = run.config
        record = path / "metrics.jsonl"
        for result in results_of(str(path), config, run.rows if record.exists() else []):
            place = out / file_name({**result, "method": method})
            if place in found:
                raise _both_want(place, *found[place], path, result)
            if place.exists():
                _check_same(place, read_result(place), result)
            ended = datetime.fromtimestamp(record.stat().st_mtime, UTC).date().isoformat()
            found[place] = path, sealed({**result, "date": ended, "method": method, "note": note})
    try:
        with replace_files(out) as new:
            for place, (_, result) in found.items():
                write_json(new / place.name, result)
    except OSError as error:
        raise RunError(f"{out} cannot be written ({error}); choose another place") from None
    return list(found)


def report(
    *places: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    suite: str | os.PathLike[str] | None = None,
    protocol: Protocol = "scores",
    episodes: int = 100,
) -> Path:
    """Write tables, figures and one page of results or finished runs, as ``offline-rl report`` does.

    Args:
        *places: Folders of finished runs, and folders of result files.
        out: Where to write; a single folder of results may do without, and gets the report itself.
        suite: YAML file of the suite that made the results: its order of methods, its metrics as columns.
        protocol: ``"scores"``: the last scores, with intervals over seeds. ``"bandit"``: what a policy comes to that is
            chosen by playing, see :mod:`offline_rl.analysis.bandit`; for this, runs alone, whose agents are played.
        episodes: With ``"bandit"``: how many episodes of each agent to play.

    Returns:
        The page, ``report.html``; the table and the figures are beside it. With ``"bandit"``, the table ``bandit.md``.

    Raises:
        RunError: There are no results, a run has not finished, or it is not said where to write.
    """
    if protocol == "bandit":
        if out is None:
            raise RunError("a report needs a folder of its own; name it with --out")
        if suite is not None:
            raise RunError("the order of a suite is for --protocol scores; leave --suite out")
        return _bandit([Path(place) for place in places], Path(out), episodes)
    order = read_suite(Path(suite)) if suite is not None else None
    columns = {"methods": list(order.methods), "metrics": order.metrics} if order else {}
    return report_of([Path(place) for place in places], None if out is None else Path(out), **columns)


def _bandit(places: Sequence[Path], out: Path, episodes: int) -> Path:
    """Play the agents of runs, and write what a bandit over them comes to: one pool for each algorithm and dataset."""
    if strange := [path for path in places if not is_run(path)]:
        raise RunError(f"{strange[0]} is no run; the bandit plays agents, which results do not hold: give runs")
    pools: dict[tuple[str, str], Pool] = {}
    made: dict[tuple[str, str], dict[str, Any]] = {}
    lost = []
    for path in dict.fromkeys(places):
        run = Run(path)
        config, agents = run.config, run.agents
        key = config["dataset"]["name"], config["algorithm"]
        same = {name: config["options"].get(name, 0) for name in ("steps", "online_steps")}
        same |= {"dynamics": config["dynamics"], "fingerprint": config["dataset"]["fingerprint"]}
        if apart := varying([made.setdefault(key, same), same]):
            raise RunError(f"{path} differs from other runs of {key[1]} in {', '.join(sorted(apart))}; report it apart")
        pool = pools.setdefault(key, Pool(*key, [], [], score_name(config)))
        for seed in agents:
            name = f"{path.name}, seed {seed}"
            logger.info("%s: %d episodes", name, episodes)
            try:
                played = evaluate(agents[seed], episodes=episodes)
            except DivergedError:
                lost.append(f"{name} has diverged and is left out.")
                continue
            if played.scores is None:
                raise RunError(f"{path} has no task that gives scores; a bandit cannot compare its agents")
            pool.policies.append(name)
            pool.episodes.append([float(score) for score in played.scores])
    found = [pool for pool in pools.values() if pool.episodes]
    if not found:
        raise RunError("no agent is left to choose from: all have diverged")
    return write_bandit(found, out, remarks=lost)


def compare(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> str:
    """Say what differs between two runs or folders of results, and whether it is noise, as ``offline-rl compare`` does.

    Args:
        first: A folder of result files, or a finished run.
        second: Another; differences are first less second.

    Returns:
        A Markdown table with Welch's 95 % intervals, and below it what changed.

    Raises:
        RunError: A folder holds no results, a run has not finished, or nothing is on both sides.
    """
    return compare_results(results_at(Path(first)), results_at(Path(second)))


def report_of(
    places: Sequence[Path], out: Path | None = None, methods: Sequence[str] = (), metrics: Sequence[str] = ()
) -> Path:
    """Write a report, see :func:`~offline_rl.analysis.report.report`, of folders of results and of finished runs.

    Args:
        places: The folders.
        out: Where to write; a single folder of results may do without, and gets the report itself.
        methods: The methods' order.
        metrics: Training metrics, whose last values get a column each.

    Raises:
        RunError: There are no results, a run has not finished, or it is not said where to write.
    """
    if len(places) == 1 and not is_run(places[0]):
        return report_folder(places[0], out, methods, metrics)
    if out is None:
        raise RunError("the report of runs, or of several folders, needs a folder of its own; name it with --out")
    results = [result for place in dict.fromkeys(places) for result in results_at(place)]
    return write_report(results, out.resolve().name, out, methods, metrics)


def results_at(path: Path) -> list[Result]:
    """Return the results in a folder of result files, or those of a finished run.

    Raises:
        RunError: It is neither, or the run has not finished.
    """
    if not is_run(path):
        return read_results(path)
    run = Run(path)
    return results_of(str(path), run.config, run.rows if (path / "metrics.jsonl").exists() else [])


def file_name(result: Mapping[str, Any]) -> str:
    """Return ``<method>-<dataset>-seed-<n>.json``; a method without a name goes by its algorithm."""
    return _file_name(result["dataset"]["name"], result.get("method") or result["algorithm"], result["seed"])


def _file_name(dataset: str, method: str, seed: int) -> str:
    return f"{_words(method)}-{_words(dataset)}-seed-{seed}.json"


def _words(text: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", text)


def _stem(dataset: str) -> str:
    """Return the name by which results know a dataset."""
    parts = dataset.split("+")
    return "+".join(d4rl.find_id(part) or part if stem(part) == part else stem(Path(part).name) for part in parts)


def _settings(suite: Suite, dataset: str, method: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return a method's algorithm and all settings of its run; what neither run nor algorithm knows is refused."""
    settings = {**suite.options, **method}
    algorithm = settings.pop("algorithm")
    settings.pop("datasets", None)
    if "each" in settings:
        raise RunError("a suite has no each; write a method for each setting")
    if isinstance(by_dataset := settings.get("preset"), Mapping):
        if unknown := [str(name) for name in by_dataset if name not in suite.datasets]:
            raise RunError(f"preset: {unknown[0]!r} is no dataset of the suite{suggestion(unknown[0], suite.datasets)}")
        settings["preset"] = by_dataset.get(dataset)
    options, own = split_settings(algorithm, settings)
    if preset := TrainOptions(**options).preset:
        named_preset(find_algorithm(algorithm, own), preset)
    return algorithm, settings


def check(suite: Suite, results: Path) -> None:
    """Look at the results that are there.

    Raises:
        RunError: One was made with other settings than the suite asks for.
    """
    for job in _jobs(suite):
        _check(suite, *job, results)


def _check(suite: Suite, dataset: str, method: str, results: Path) -> None:
    name, settings = _settings(suite, dataset, suite.methods[method])
    options, asked = split_settings(name, settings)
    algorithm = find_algorithm(name, asked)
    # With a preset that is named, all settings are known; else only those that are asked for.
    if preset := options.pop("preset", None):
        wanted = algorithm.config_class.of({**named_preset(algorithm, preset).settings, **asked}).settings()
    else:
        config = algorithm.config_class.of(asked).settings()
        wanted = {name: config[name] for name in asked}
    wanted |= {name: getattr(TrainOptions(**options), name) for name in options}
    for path in result_paths(suite, dataset, method, results):
        if not path.exists():
            continue
        result = read_result(path)
        found = {**result, **result["options"], **upgraded(name, result["config"])}
        if wrong := [name for name, value in wanted.items() if name in found and found[name] != value]:
            raise RunError(f"{path} was made with a different {', '.join(wrong)}; remove it, or choose other --results")


def _check_same(path: Path, old: Result, new: Result) -> None:
    """Refuse to write over a result of something else, or of the same thing on another machine."""
    if different := _apart(old, new):
        raise RunError(
            f"{path} is a result made with a different {different}; remove it, choose another place, or name the new"
            " one's method"
        )
    if old["score_last"] != new["score_last"]:
        raise RunError(
            f"{path} is a result of the same settings that came to another score ({old['score_last']}, now"
            f" {new['score_last']}); remove it, or choose another place"
        )


def _both_want(place: Path, one: Path, first: Result, other: Path, second: Result) -> RunError:
    """Return what to say where two runs would be written to one file, before any is."""
    if different := _apart(first, second):
        return RunError(
            f"{one} and {other} would both be written to {place.name}, but differ in {different}; take one of"
            " them by itself, with --method NAME to tell it apart"
        )
    return RunError(
        f"{one} and {other} would both be written to {place.name}, and have the same settings; take one of them"
    )


def _apart(one: Result, other: Result) -> str:
    """Name the settings in which two results differ."""
    return ", ".join(sorted(varying(conditions(result) | identity(result) for result in (one, other))))


def write_table(path: Path, text: str) -> None:
    """Write a table's Markdown."""
    write_bytes(path, f"{text}\n".encode())
