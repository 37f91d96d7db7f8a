"""Results and the folders of runs."""

import contextlib
import io
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import offline_rl as orl
from benchmarks.robustness.bases import base
from benchmarks.robustness.cases import Case
from benchmarks.robustness.damage import damaged
from benchmarks.robustness.structures import (
    Check,
    as_json,
    described,
    is_count,
    is_mapping,
    is_number,
    is_text,
    odd,
    optional,
    paths,
    replaced,
)  # fmt: skip
from offline_rl.analysis.comparison import compare
from offline_rl.analysis.report import comma_separated
from offline_rl.analysis.results import read_results, results_of
from offline_rl.analysis.tables import table, tabulated
from offline_rl.benchmark import results_at
from offline_rl.files import sealed

Record = dict[str, Any]

_ORIGIN: dict[str, Check] = {
    "algorithm": is_text,
    "config": is_mapping,
    "options": is_mapping,
    "options.steps": is_count,
    "options.final_episodes": is_count,
    "options.seeds": lambda value: isinstance(value, list) and all(map(is_count, value)),
    "task": optional(is_text),
    "dynamics": is_text,
    "compute": is_mapping,
    "versions": is_mapping,
    "hardware": is_mapping,
    "dataset": is_mapping,
    "dataset.name": is_text,
    "dataset.rows": is_count,
    "dataset.episodes": is_count,
    "dataset.mean_return": is_number,
    "dataset.mean_score": optional(is_number),
}
_SCORE = optional(is_number)
RESULT: dict[str, Check] = {
    **_ORIGIN,
    "format": lambda value: value == 2,
    "seed": is_count,
    "score_last": _SCORE,
    "score_mean_of_last": is_mapping,
    "score_mean_of_last.score": _SCORE,
    "score_best": is_mapping,
    "score_best.score": _SCORE,
    "final": is_mapping,
    **{f"final.{name}": _SCORE for name in ("return", "return_std", "score")},
    "final.episodes": is_count,
    "seconds": is_number,
    "updates_per_second": optional(is_number),
    "train": optional(is_mapping),
    "curve": lambda value: (
        isinstance(value, list)
        and all(isinstance(p, list) and len(p) == 3 and is_count(p[0]) and all(map(_SCORE, p[1:])) for p in value)
    ),
}
"""What must be there, and what it may be; dots lead into mappings."""
CONFIG = {**_ORIGIN, "format": is_count}


def broken(value: Any, rules: dict[str, Check]) -> str | None:
    """Name the first rule that a record breaks; None if it keeps all."""
    if not isinstance(value, dict):
        return "it is no mapping"
    for name, check in rules.items():
        place: Any = value
        for part in name.split("."):
            if not isinstance(place, dict) or part not in place:
                return f"{name} is missing"
            place = place[part]
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            if check(place):
                continue
        return f"{name} is wrong"
    return None


def _strict(text: bytes) -> Any:
    """Read JSON as the standard has it; raises ValueError or RecursionError."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    return json.loads(text, parse_constant=refuse)


def changed(rng: random.Random, value: Record, rules: dict[str, Check]) -> tuple[bytes, str, str]:
    """Change one thing in a record; return its JSON, what was done, and what must become of it."""
    if rng.random() < 0.5:
        path: tuple[Any, ...] = tuple(rng.choice(list(rules)).split("."))
    else:
        path = rng.choice(list(paths(value)))
    old: Any = value
    for name in path:
        old = old[name]
    new = odd(rng, old)
    kind, changed_value = described(path, new), replaced(value, path, new)
    content = as_json(changed_value, indent=2)
    try:
        parsed = _strict(content)
    except (ValueError, RecursionError):
        return content, kind, "refuse"
    if "checksum" in value:
        content = (json.dumps(sealed(parsed), indent=2) + "\n").encode()
    return content, kind, "refuse" if broken(parsed, rules) else "either"


# Results.


def _result(rng: random.Random) -> Record:
    found = results_of("run", _config(base()), _rows(base()))
    return sealed({**rng.choice(found), "date": "2031-01-01", "method": None, "note": None})


def _config(run: Path) -> Record:
    config = json.loads((run / "config.json").read_text())
    return {name: value for name, value in config.items() if name != "checksum"}


def _rows(run: Path) -> list[Record]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def result_case(rng: random.Random, folder: Path) -> Case:
    """Make a folder of results, one of them changed."""
    value = _result(rng)
    content, kind, must = as_json(value, indent=2), "nothing", "accept"
    way = rng.random()
    if way < 0.55:
        content, kind, must = changed(rng, value, RESULT)
    elif way < 0.85:
        before = content
        content, kind = damaged(content, rng)
        must = "either" if _same(before, content) else "refuse"
    elif way < 0.95:
        text, _, _ = changed(rng, {name: part for name, part in value.items() if name != "checksum"}, RESULT)
        content, kind, must = _with_checksum(text, value["checksum"]), "changed and not sealed again", "refuse"
    file = folder / "one-hopper-demo-seed-0.json"
    file.write_bytes(content)
    if rng.random() < 0.5:
        (folder / "other.json").write_bytes(as_json(sealed({**value, "seed": 7}), indent=2))

    def load() -> Any:
        results = read_results(folder)
        shown = [table(results), compare(results, results), comma_separated(tabulated(results))]
        return results, shown

    names = (re.escape(file.name),)
    return Case(kind, load, len(content), must, names, lambda found: _judge_results(found, content), kind)


def _with_checksum(text: bytes, checksum: str) -> bytes:
    return text.rstrip()[:-1] + f', "checksum": "{checksum}"}}'.encode()


def _same(before: bytes, after: bytes) -> bool:
    try:
        return bool(_strict(before) == _strict(after))
    except (ValueError, RecursionError):
        return False


def _judge_results(found: Any, content: bytes) -> str | None:
    results, shown = found
    if _strict(content) not in results:
        return "the result is another than in the file"
    return "a table holds nan" if any(re.search(r"\b(nan|inf)\b", text) for text in shown) else None


# Runs.


def _compare(run: Path) -> Any:
    results = results_at(run)
    return results, [table(results), compare(results, results)]


def _print(run: Path) -> Any:
    from offline_rl.cli.summary import print_report

    with contextlib.redirect_stdout(io.StringIO()) as said:
        print_report(orl.Run(run))
    return None, [said.getvalue()]


def _agents(run: Path) -> Any:
    from offline_rl.agent.folder import agent_folders

    found = agent_folders(run)
    return None, [str(orl.load_agent(folder).act([0.0] * 11)) for folder in found.values()]


def _scores(run: Path) -> Any:
    found = orl.Run(run)
    # A seed that has diverged has the score NaN there, as documented.
    return found.scores, [*map(str, found.agents.values())]


ACTIONS: list[Callable[[Path], Any]] = [_compare, _compare, _print, _agents, _scores]
ROW: dict[str, Check] = {"kind": is_text, "step": is_count, "seed": is_count, "seconds": is_number}
PLAYED: dict[str, Check] = {**ROW, "episodes": is_count, **dict.fromkeys(("return", "return_std", "score"), _SCORE)}


def run_case(rng: random.Random, folder: Path) -> Case:
    """Make the folder of a run, with one of its files changed."""
    run = folder / "run"
    shutil.copytree(base(), run)
    change = rng.choice([_config_changed, _config_changed, _metrics_changed, _metrics_changed, _files_changed])
    kind, must, names, action = change(rng, run)
    size = sum(file.stat().st_size for file in run.rglob("*") if file.is_file())
    return Case(kind, lambda: action(run), size, must, names, _judge_run, kind)


def _judge_run(found: Any) -> str | None:
    _, shown = found
    return "nan or infinity is shown" if any(re.search(r"\b(nan|inf)\b", text) for text in shown) else None


Change = tuple[str, str, tuple[str, ...], Callable[[Path], Any]]


def _config_changed(rng: random.Random, run: Path) -> Change:
    file, action = run / "config.json", rng.choice([_compare, _compare, _print])
    value = json.loads(file.read_text())
    if rng.random() < 0.7:
        content, kind, must = changed(rng, value, CONFIG)
    else:
        before = file.read_bytes()
        content, kind = damaged(before, rng)
        must = "either" if _same(before, content) or ("checksum" not in value and _whole(content)) else "refuse"
    file.write_bytes(content)
    return f"config.json: {kind}", must, (r"config\.json|is not finished",), action


def _whole(content: bytes) -> bool:
    try:
        return broken(_strict(content), CONFIG) is None
    except (ValueError, RecursionError):
        return False


def _metrics_changed(rng: random.Random, run: Path) -> Change:
    file, action = run / "metrics.jsonl", rng.choice([_compare, _print, _scores])
    lines = file.read_bytes().splitlines(keepends=True)
    if rng.random() < 0.5:
        content, kind = damaged(b"".join(lines), rng)
        must = "accept" if content == b"".join(lines) else "refuse"
    else:
        place = rng.choice([i for i, line in enumerate(lines) if b'"final"' in line or b"evaluation" in line])
        lines[place], kind, must = changed(rng, json.loads(lines[place]), PLAYED)
        if b"\n" in lines[place]:
            lines[place] = lines[place].replace(b"\n", b" ")
        lines[place] += b"\n"
        content = b"".join(lines)
        shutil.rmtree(run / "checkpoint")  # which knows what stood there
        # Not each row is looked at by each command; but one that is no row is a fault in any of them.
    file.write_bytes(content)
    return f"metrics.jsonl: {kind}", must, (r"metrics\.jsonl|is not finished",), action


def _files_changed(rng: random.Random, run: Path) -> Change:
    """Do to whole files what copying does to them."""
    agents = run / "agents"
    (agents / "seed-0" / "agent.json").exists()
    ways: list[tuple[str, Callable[[], Any], str, str, Callable[[Path], Any]]] = [
        ("config.json is gone", (run / "config.json").unlink, "refuse", r"config\.json|run", _compare),
        (
            "metrics.jsonl is gone",
            (run / "metrics.jsonl").unlink,
            "refuse",
            r"metrics\.jsonl|is not finished",
            _compare,
        ),
        ("metrics.jsonl is gone", (run / "metrics.jsonl").unlink, "refuse", r"metrics\.jsonl|is not finished", _print),
        ("config.json is a folder", lambda: _folder(run / "config.json"), "refuse", r"config\.json|run", _compare),
        ("metrics.jsonl is a folder", lambda: _folder(run / "metrics.jsonl"), "refuse", r"metrics\.jsonl", _compare),
        ("a folder agents/seed-x", (agents / "seed-x").mkdir, "either", "seed-x", _agents),
        ("a folder agents/seed-", (agents / "seed-").mkdir, "either", "seed-", _agents),
        ("a file agents/seed-1", lambda: _file(agents / "seed-1"), "refuse", "seed-1", _agents),
        ("an agent is gone", lambda: shutil.rmtree(agents / "seed-1"), "refuse", "seed-1", _scores),
        (
            "an empty metrics.jsonl",
            lambda: (run / "metrics.jsonl").write_text(""),
            "refuse",
            r"metrics\.jsonl|is not finished",
            _compare,
        ),
        ("not a run", lambda: _emptied(run), "refuse", "run", rng.choice(ACTIONS[:3])),
        ("nothing", lambda: None, "accept", "", rng.choice(ACTIONS)),
    ]
    kind, do, must, name, action = rng.choice(ways)
    do()
    return kind, must, (name,), action


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("")


def _emptied(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()
