"""What is made of the committed results, and whether they are still as they were made.

``make scores`` prints their table. Runs become results by ``offline-rl results collect``.
"""

import hashlib
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import estimates
from benchmarks.algorithms import ours
from benchmarks.cells import cells, finished, score
from benchmarks.compile_table import cost_table
from benchmarks.ensemble_cost import table as ensemble_table
from benchmarks.kernels import sentence
from benchmarks.layers import table as layers_table
from benchmarks.text import between, filled
from benchmarks.throughput_table import table as speed_table
from offline_rl.agent import algorithms, find_algorithm
from offline_rl.analysis.figures import draw_comparison
from offline_rl.analysis.groups import Group, conditions, grouped, labels, varying
from offline_rl.analysis.results import FORMAT, read_results
from offline_rl.analysis.tables import markdown, settings_by_dataset, table
from offline_rl.benchmark import file_name, read_suite, write_table
from offline_rl.documents import read_json
from offline_rl.errors import OfflineRLError, RunError
from offline_rl.files import read_sealed, sealed, write_bytes, write_json
from offline_rl.training.preset import near_preset

ROOT = Path(__file__).parent.parent
SUITES = Path(__file__).parent
SHOWN = ("locomotion-recordings", "locomotion-small")
"""Folders of results that the pages show, the longest runs first."""
ELSEWHERE = ("sac", "parl", "parl_online")
"""Algorithms that no suite of these has: they play first, or learn from preferences."""
RECORDINGS = """
The datasets are recordings that the tests use. They are of the kind of D4RL's, but they are not D4RL's files and cannot
be downloaded, so these numbers compare with each other only. `offline-rl collect sac --task hopper --steps 200000 --out
hopper_medium_replay.hdf5` makes [a similar recording](collect.md). Every method trains on `hopper-demo`, too.
"""
RECORDS = "checksums.json"
"""Beside the records of a run, which are no results and carry no checksum of their own."""


def show(folder: Path, /, *, out: Path | None = None, figure: Path | None = None) -> None:
    """Print the table of the results in a folder.

    Args:
        folder: Folder of result files.
        out: Markdown file to write the table to, too.
        figure: PNG file to draw the learning curves to.
    """
    results = read_results(folder)
    text = table(results)
    print(text)
    if out:
        write_table(out, text)
    if figure:
        draw_comparison(results, figure)


def seal(folders: tuple[Path, ...], /) -> None:
    """Give results that were made before there were checksums one, and change nothing else; others are left alone.

    Args:
        folders: Folders of result files, single files, or runs, whose checksums go to a file beside their records.
    """
    runs = [folder for folder in folders if (folder / "config.json").is_file()]
    for run in runs:
        if not (run / RECORDS).exists():
            write_json(run / RECORDS, sealed({"files": _checksums(run)}))
    others = [folder for folder in folders if folder not in runs]
    paths = [sorted(folder.glob("*.json")) if folder.is_dir() else [folder] for folder in others]
    for path in itertools.chain.from_iterable(paths):
        value = read_json(path, RunError, "it is no result", {str: object})
        if "checksum" not in value:
            write_json(path, sealed({**value, "format": FORMAT} if "format" in value else value))


def check(folder: Path, /) -> None:
    """See that nobody has changed a file in a folder of results or below it.

    Args:
        folder: Folder of sealed JSON files, and of the records of runs.

    Raises:
        RunError: A file has no checksum, or was changed after it was made; the first one is named.
    """
    for path in sorted(folder.rglob("*.json")):
        if path.name != "config.json":
            read_sealed(path)
        elif changed := varying([read_sealed(path.with_name(RECORDS))["files"], _checksums(path.parent)]):
            raise RunError(f"{path.with_name(min(changed))} was changed after it was made; restore it")


def _checksums(run: Path) -> dict[str, str]:
    names = ("config.json", "metrics.jsonl")
    return {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in names}


def pages(root: Path = ROOT) -> None:
    """Put scores, speed and costs between the marks of the README and the docs.

    Args:
        root: The repository.
    """
    results = root / "results"
    folders = [results / name for name in SHOWN if list((results / name).glob("*.json"))]
    suites = {folder.name: _one_protocol(folder)[:2] for folder in folders}
    scores = "\n\n".join(summary(folder) for folder in folders)
    contents = [("README.md", "scores", brief(folders)), ("docs/scores.md", "scores", scores)]
    measured = results / "throughput"
    contents += [("docs/speed.md", name, text) for name, text in speeds(measured).items()]
    contents.append(("docs/edac.md", "ensembles", ensemble_table(read_sealed(measured / "ensembles.json"))))
    if list((results / "minari").glob("*.json")):
        contents.append(("docs/minari.md", "scores", goals(results / "minari")))
    if list((results / "estimates").glob("*.json")):
        contents.append(("docs/estimate.md", "estimates", estimates.brief(estimates.read(results / "estimates"))))
    contents += [(f"docs/{name}.md", "scores", cells(name, suites)) for name in ours() if name not in ELSEWHERE]
    for page, name, content in contents:
        text = (root / page).read_text(encoding="utf-8")
        write_bytes(root / page, between(text, name, f"{content}\n").encode())


def speeds(folder: Path) -> dict[str, str]:
    """Return the parts of the page on speed as Markdown, from a folder of measurements, by their marks."""
    found = {path.stem: read_sealed(path) for path in folder.glob("*.json")}
    return {
        "compiling": cost_table(found["compiling"], found["cpu"]),
        "speed": speed_table(found["cpu"]),
        "layers": layers_table(found["layers"]),
        "references": "\n\n".join(speed_table(found[f"references{name}"]) for name in ("", "-avx2")),
        "kernels": filled(sentence(found["kernels"])),
    }


def brief(folders: Sequence[Path]) -> str:
    """Return the last scores in folders of results as Markdown, with one sentence on what they are.

    Raises:
        RunError: As :func:`summary`.
    """
    parts = []
    for folder in folders:
        groups, methods, options = _one_protocol(folder)
        parts += [f"After {options['steps']:,} updates, {len(options['seeds'])} seeds:", _scores(groups, methods)]
    sentence = """
Mean scores over seeds ± half the 95 % interval, on recordings that are not D4RL's files: they compare with each other
only. Papers train for a million updates. A dash stands where no run has ended yet. No score of a paper has been
reproduced yet. [What a score means](docs/scores.md)."""
    return "\n\n".join([*parts, filled(sentence)])


def summary(folder: Path) -> str:
    """Return the last scores in a folder of results as Markdown: methods by datasets, how they were made, a figure.

    Raises:
        RunError: The results were not made under one protocol, or one has no date.
    """
    groups, methods, options = _one_protocol(folder)
    results = [result for group in groups for result in group.results]
    suite = SUITES / f"{folder.name}.yaml"
    command = f" by `offline-rl benchmark benchmarks/{suite.name}`" if suite.exists() else ""
    datasets = _datasets(groups)
    missing = len({group.label for group in groups}) * len(datasets) - len(groups)
    dash = " A dash stands where there is no result yet." if missing else ""
    means = [(fmean(scores), datasets[group.dataset]["mean_score"]) for group in groups if (scores := finished(group))]
    below = sum(score < mean for score, mean in means)
    data = "; ".join(f"{n}, {data['rows']:,} rows of {data['episodes']:,} episodes" for n, data in datasets.items())
    place = f"../results/{folder.name}"
    dates = [result["date"] for result in results]
    made = " to ".join(dict.fromkeys([min(dates), max(dates)]))
    protocol = f"""
Made {made}{command}, with {options["steps"]:,} updates (papers: a million), {len(options["seeds"])} seeds and dynamics
{results[0]["dynamics"]}. A cell is the mean of the last agents' scores over {options["final_episodes"]} episodes ± half
the 95 % Student-t interval.{dash} {below} of {len(means)} means are below the mean of the data.
[All columns]({place}/table.md). {_settings(groups, methods)}Data: {data}. {RECORDINGS}"""
    curves = f"""
Learning curves of the same runs, {options["eval_episodes"]} episodes every {options["eval_every"]:,} updates: means
over seeds, 95 % Student-t intervals."""
    figure = f"![Learning curves with 95 % intervals]({place}/curves.png)"
    title = f"### After {options['steps']:,} updates"
    return "\n\n".join([title, _scores(groups, methods), filled(protocol), figure, filled(curves)])


def goals(folder: Path) -> str:
    """Return the success rates in a folder of results as Markdown, with one sentence on how they were made.

    Raises:
        RunError: As :func:`summary`.
    """
    groups, methods, options = _one_protocol(folder)
    (data,) = _datasets(groups).values()
    sentence = f"""
The score is the success rate in %, the mean over {len(options["seeds"])} seeds of the last agents after
{options["steps"]:,} updates, {options["final_episodes"]} episodes each, ± half the 95 % Student-t interval. Data:
{data["rows"]:,} rows of {data["episodes"]:,} episodes. [All columns](../results/{folder.name}/table.md)."""
    return "\n\n".join([_scores(groups, methods), filled(sentence)])


def _one_protocol(folder: Path) -> tuple[list[Group], list[str], dict[str, Any]]:
    """Return the groups of a folder's results, the order of methods, and the options that all of them share."""
    results, suite = read_results(folder), SUITES / f"{folder.name}.yaml"
    if apart := varying(conditions(result) for result in results):
        raise RunError(f"results in {folder} differ in {', '.join(sorted(apart))}; the pages show one protocol")
    if undated := [result for result in results if "date" not in result]:
        raise RunError(f"{folder / file_name(undated[0])} has no date; collect its run again")
    methods = list(read_suite(suite).methods) if suite.exists() else []
    return grouped(results, methods), methods, results[0]["options"]


def _datasets(groups: list[Group]) -> dict[str, dict[str, Any]]:
    return {group.dataset: group.results[0]["dataset"] for group in groups}


def _scores(groups: list[Group], methods: list[str]) -> str:
    """Return methods by datasets as Markdown, with the mean of the data first."""
    datasets = _datasets(groups)
    cells = {(group.label, group.dataset): score(group) for group in groups}
    rows = [["*mean of the data*", *(f"{data['mean_score']:.1f}" for data in datasets.values())]]
    rows += [[label, *(cells.get((label, name), "–") for name in datasets)] for label in labels(groups, methods)]
    return markdown(["last score", *datasets], rows)


def _settings(groups: list[Group], methods: list[str]) -> str:
    """Say which settings are not the same everywhere, and who lacks what is published for data of such names."""
    untuned = list(dict.fromkeys(group.label for group in groups if _lacks_preset(group)))
    lines = settings_by_dataset(groups, methods)
    if untuned:
        lines.append(f"{', '.join(untuned)}: without what is published for D4RL's data of such names (`--preset`)")
    return f"Settings: {' · '.join(lines)}. " if lines else ""


def _lacks_preset(group: Group) -> bool:
    first = group.results[0]
    if first["algorithm"] not in algorithms():
        return False
    near = near_preset(find_algorithm(first["algorithm"]), group.dataset)
    return near is not None and any(first["config"].get(name) != value for name, value in near.settings.items())


def main() -> int:
    """Run one of the commands; return the exit status."""
    import tyro

    try:
        tyro.extras.subcommand_cli_from_dict({"table": show, "seal": seal, "check": check, "pages": pages})
    except OfflineRLError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
