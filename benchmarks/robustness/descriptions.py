"""Sweeps and suites in YAML."""

import copy
import functools
import random
from pathlib import Path
from typing import Any

import yaml

from benchmarks.robustness.cases import Case
from benchmarks.robustness.damage import damaged
from benchmarks.robustness.structures import DEEP, GONE, HUGE, replaced
from offline_rl import benchmark
from offline_rl.sweep.file import Sweep, read_sweep

Tree = dict[str, Any]
Change = tuple[str, tuple[Any, ...], list[Any], str]
"""What it is called, where, what stands there instead, and what must become of it."""
REFUSE, EITHER, ACCEPT = "refuse", "either", "accept"
LAUGHS = "aliases of aliases, put in afterwards"
LOOP = "an alias of itself, put in afterwards"
WRONG: list[Any] = [5, -1.5, True, None, [[1]], {"a": 1}, DEEP, LAUGHS, LOOP, "x" * 5000]
NO_LIST: list[Any] = [5, 1.5, True, {"a": 1}, DEEP, LAUGHS, LOOP]
NO_MAPPING: list[Any] = [5, "abc", [1], [None], True, DEEP, LAUGHS, LOOP]


DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""The quicker one: some lists are long."""
LONG = 20_000
"""Bytes from which YAML is not read a second time: that would take longer than all else."""


def as_yaml(tree: Tree) -> str:
    """Return YAML, with the aliases and the nesting that no writer writes."""
    text = yaml.dump(tree, Dumper=DUMPER, default_flow_style=True, width=10**9, allow_unicode=True)
    laughs = "[&l0 [x, x]" + "".join(f", &l{i + 1} [{', '.join([f'*l{i}'] * 9)}]" for i in range(12)) + "]"
    for mark, written in ((DEEP, "[" * 20_000 + "]" * 20_000), (LAUGHS, laughs), (LOOP, "&loop [*loop]")):
        text = text.replace(f"'{mark}'", written)
    return text


class _Once(yaml.SafeLoader):
    """Loads YAML, and notes whether a name stands twice in a mapping."""

    twice = False

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        names = [self.construct_object(key, deep=True) for key, _ in node.value]
        self.twice |= len(names) > len({repr(name) for name in names})
        return super().construct_mapping(node, deep)


@functools.lru_cache(maxsize=4)
def parsed(content: bytes) -> tuple[Any, bool]:
    """Return what YAML says, or None if it says nothing, and whether a name stands there twice."""
    if b"*" in content or b"[[[[" in content or len(content) > LONG:
        return None, False
    try:
        loader = _Once(content.decode())
        return loader.get_single_data(), loader.twice
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, AttributeError):
        return None, False


def _libyaml_reads(content: bytes) -> bool:
    """Say whether libyaml takes it, too, which is stricter about some colons."""
    try:
        yaml.load(content, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError):
        return False
    return True


def _changed(rng: random.Random, tree: Tree, changes: list[Change]) -> tuple[Tree, str, str, tuple[Any, ...]]:
    for _ in range(100):
        what, path, values, must = rng.choice(changes)
        value = copy.deepcopy(rng.choice(values))
        try:
            return replaced(tree, path, value), what, must, path
        except (KeyError, IndexError, TypeError):
            continue
    return tree, "nothing", ACCEPT, ()


def _written(rng: random.Random, tree: Tree, must: str, kind: str) -> tuple[bytes, str, str]:
    """Write a tree, and damage the bytes of some."""
    content = as_yaml(tree).encode()
    way = rng.random()
    if kind == "nothing" and way < 0.85:
        before = parsed(content)[0]
        if way < 0.6:
            content, kind = damaged(content, rng)
        else:
            content, kind = _spelt(rng, tree)
        after, twice = parsed(content)
        if twice:
            must = REFUSE
        elif after is None:
            must = EITHER if b"*" in content else REFUSE
        else:
            same = after == before and _libyaml_reads(content)
            must = ACCEPT if same and kind not in _SPELLINGS_EITHER else EITHER
    return content, kind, must


_SPELLINGS_EITHER = {"a byte order mark", "tabs", "UTF-16"}


def _spelt(rng: random.Random, tree: Tree) -> tuple[bytes, str]:
    block = yaml.safe_dump(tree, sort_keys=False)
    return rng.choice(
        [
            (block.encode(), "block style"),
            (block.replace("\n", "\r\n").encode(), "line ends of Windows"),
            (f"# made by hand\n---\n{block}...\n".encode(), "remarks and marks"),
            (b"\xef\xbb\xbf" + block.encode(), "a byte order mark"),
            (block.encode("utf-16"), "UTF-16"),
            (block.replace("  ", "\t").encode(), "tabs"),
            (f"{block}{block}".encode(), "everything twice"),
            (f"{block}---\n{block}".encode(), "two documents"),
            (f"{block}? !!python/object/apply:os.system ['true']\n: 1\n".encode(), "a tag"),
            (b"", "an empty file"),
            (b"\0" * 100, "zeros"),
            (block.encode() + b"\xff", "no UTF-8"),
        ]
    )


# Sweeps.


def valid_sweep(rng: random.Random) -> Tree:
    """Make a sweep with nothing wrong in it."""
    method = rng.choice(["grid", "random", "bayes"])
    parameters: Tree = {"alpha": {"values": [1.0, 2.5, 4.0]}, "seeds": {"value": 3}}
    if method != "grid":
        parameters["actor_learning_rate"] = {"distribution": "log_uniform_values", "min": 0.0001, "max": 0.001}
        parameters["batch_size"] = {"min": 16, "max": 64}
    sweep: Tree = {
        "method": method,
        "metric": {"name": "score", "goal": "maximize"},
        "parameters": parameters,
        "command": [
            "offline-rl",
            "train",
            "td3_bc",
            "--dataset=hopper-demo",
            "--steps=40",
            "--eval_every=10",
            "${args}",
        ],
        "run_cap": 4,
    }
    if rng.random() < 0.3:
        sweep["early_terminate"] = {"type": "hyperband", "min_iter": 1}
    return sweep


_ALPHA, _RATE, _BATCH = ("parameters", "alpha"), ("parameters", "actor_learning_rate"), ("parameters", "batch_size")
SWEEP_CHANGES: list[Change] = [
    ("method", ("method",), [*WRONG, "grids", "", GONE, ["grid"]], REFUSE),
    ("metric", ("metric",), ["score", *NO_MAPPING[:3]], REFUSE),
    ("metric.name", ("metric", "name"), [5, None, [], True, {"a": 1}, "scores", "", LAUGHS, LOOP], REFUSE),
    ("metric.goal", ("metric", "goal"), ["max", 5, [1], LAUGHS, LOOP], REFUSE),
    ("metric.target", ("metric", "target"), [1.0], REFUSE),
    ("parameters", ("parameters",), [*NO_MAPPING, {}, GONE, None], REFUSE),
    ("a parameter", _ALPHA, [*NO_MAPPING[:4], DEEP, LAUGHS, LOOP, {}], REFUSE),
    ("a parameter that is not known", ("parameters", "alhpa"), [{"values": [1, 2]}], REFUSE),
    ("a parameter whose name is no text", ("parameters", 5), [{"values": [1, 2]}], REFUSE),
    ("a parameter whose name is long", ("parameters", "x" * 3000), [{"values": [1, 2]}], REFUSE),
    ("an option the sweep decides", ("parameters", "out"), [{"values": ["a", "b"]}], REFUSE),
    ("values", (*_ALPHA, "values"), [*NO_LIST, [], "abc", None], REFUSE),
    (
        "values of the wrong type",
        (*_ALPHA, "values"),
        [["a", "b"], [[1], [2]], [{"a": 1}], [None, 1], [1, True]],
        REFUSE,
    ),
    ("values that are not finite", (*_ALPHA, "values"), [[float("nan"), 1.0], [float("inf")], [1e400, 1]], REFUSE),
    ("values twice", (*_ALPHA, "values"), [[1, 1], [2.5, 2.5, 1]], REFUSE),
    ("values twice, spelt otherwise", (*_ALPHA, "values"), [[1, 1.0]], EITHER),
    ("values in words", (*_ALPHA, "values"), [["1e-3", "1e-4"]], REFUSE),
    ("many values", (*_ALPHA, "values"), [list(range(1, 20_001)), list(range(1, 200))], EITHER),
    ("values of many digits", (*_ALPHA, "values"), [[HUGE, 1]], REFUSE),
    (
        "probabilities",
        (*_ALPHA, "probabilities"),
        [[0.5, 0.5], [1, -1, 1], "abc", [float("nan")] * 3, 5, LAUGHS],
        REFUSE,
    ),
    ("distribution", (*_ALPHA, "distribution"), [["a"], 5, "categoricl", "beta", {"a": 1}, LAUGHS, LOOP], REFUSE),
    ("a key that is not known", (*_ALPHA, "valuess"), [[1]], REFUSE),
    ("min above max", (*_RATE, "min"), [0.1, 0.001], REFUSE),
    ("min below 0", (*_RATE, "min"), [-1.0, 0], REFUSE),
    (
        "min of the wrong type",
        (*_RATE, "min"),
        ["a", "1e-4", None, [1], True, float("nan"), -float("inf"), LAUGHS, LOOP],
        REFUSE,
    ),
    ("max beyond all", (*_RATE, "max"), [HUGE, float("inf")], REFUSE),
    ("max far away", (*_RATE, "max"), [1e300], EITHER),
    ("a range of many", (*_BATCH, "max"), [10**12, 10**15], EITHER),
    ("a range of more than all", (*_BATCH, "max"), [HUGE], REFUSE),
    ("log_uniform to 800", _RATE, [{"distribution": "log_uniform", "min": 0, "max": 800}], REFUSE),
    ("log_uniform of values", _RATE, [{"distribution": "log_uniform", "min": 0.0001, "max": 0.001}], EITHER),
    (
        "q",
        _RATE,
        [{"distribution": "q_uniform", "min": 0.0001, "max": 0.001, "q": q} for q in (0, -1, "a", None, LAUGHS)],
        REFUSE,
    ),
    (
        "a small q",
        _RATE,
        [{"distribution": "q_uniform", "min": 0.001, "max": 1.0, "q": q} for q in (1e-12, 1e-300)],
        EITHER,
    ),
    (
        "sigma",
        _RATE,
        [{"distribution": "log_normal", "mu": 0, "sigma": s} for s in (0, -1, "a", HUGE, float("nan"))],
        REFUSE,
    ),
    ("a wide normal", _RATE, [{"distribution": "log_normal", "mu": 0, "sigma": 500.0}], REFUSE),
    (
        "group",
        ("parameters", "group"),
        [{"parameters": {"alpha": {"value": 1}}}, {"parameters": LOOP}, {"parameters": 5}],
        REFUSE,
    ),
    ("run_cap", ("run_cap",), [0, -1, 1.5, "4", [4], True, float("nan"), LAUGHS, LOOP], REFUSE),
    ("a large run_cap", ("run_cap",), [10**18, HUGE], EITHER),
    ("command", ("command",), [*NO_LIST, [], GONE, None, "offline-rl train td3_bc ${args}", [1, 2], [None]], REFUSE),
    ("another program", ("command", 0), ["rm", "bash"], REFUSE),
    ("an unknown algorithm", ("command", 2), ["td3bc", "", "../x", "x" * 3000], REFUSE),
    (
        "a wrong option",
        ("command", 4),
        ["--stpes=5", "--steps=", "--steps=abc", "--steps=-1", "--steps=1e400", "--steps"],
        REFUSE,
    ),
    ("an option of many digits", ("command", 4), ["--steps=" + "9" * 4000], REFUSE),
    ("an unknown macro", ("command", 6), ["${argz}", "${env}", "args"], REFUSE),
    ("early_terminate", ("early_terminate",), [*NO_MAPPING, {}, {"type": "median"}, {"type": "hyperband"}], REFUSE),
    (
        "hyperband",
        ("early_terminate",),
        [{"type": "hyperband", "min_iter": v} for v in (0, -1, "a", 1.5, None, [1])],
        REFUSE,
    ),
    (
        "a large hyperband",
        ("early_terminate",),
        [{"type": "hyperband", "max_iter": 10**15, "s": 10**9}, {"type": "hyperband", "min_iter": 10**18}],
        EITHER,
    ),
    ("a key that is not known", ("parameter",), [{"a": 1}, None], REFUSE),
    ("a key that is no text", (5,), [1], REFUSE),
    ("nothing", ("name",), ["mine"], ACCEPT),
    ("nothing", ("name",), ["mine"], ACCEPT),
]
SWEEP_CHANGES += [SWEEP_CHANGES[-1]] * 12


SWEEP_KEYS = {"method", "metric", "parameters", "command", "run_cap", "early_terminate", "name"}
SWEEP_KEYS |= {"program", "description", "project", "entity"}
"""What a sweep may hold."""


def sweep_case(rng: random.Random, folder: Path) -> Case:
    """Make a sweep file."""
    tree, kind, must, path = _changed(rng, valid_sweep(rng), SWEEP_CHANGES)
    content, kind, must = _written(rng, tree, must, kind)
    file = folder / "sweep.yaml"
    file.write_bytes(content)
    given, twice = parsed(content)
    names = (r"sweep\.yaml",)
    return Case(
        kind,
        lambda: read_sweep(file),
        len(content),
        must,
        names,
        lambda sweep: _judge_sweep(sweep, given, twice),
        f"{kind} at {path}",
    )


def _judge_sweep(sweep: Sweep, tree: Any, twice: bool) -> str | None:
    if twice:
        return "a name stands twice in it"
    if not isinstance(tree, dict):
        return None if tree is None else "it holds no sweep"
    if sweep.method != tree.get("method"):
        return "another method"
    if unknown := set(tree) - SWEEP_KEYS:
        return f"unknown keys {unknown}"
    problems = (_judge_parameter(sweep, name, entry) for name, entry in tree["parameters"].items())
    return next((problem for problem in problems if problem), None)


def _judge_parameter(sweep: Sweep, name: str, entry: Tree) -> str | None:
    parameter = sweep.parameters.get(name)
    if parameter is None:
        return None if name in sweep.constants or "parameters" in entry else f"{name} is lost"
    if "values" in entry:
        return None if list(getattr(parameter, "values", [])) == entry["values"] else f"{name} has other values"
    if "distribution" not in entry and not entry["min"] <= parameter.at(0.5) <= entry["max"]:
        return f"{name} leaves its range"
    return None


# Suites.


def valid_suite(rng: random.Random) -> Tree:
    """Make a suite with nothing wrong in it."""
    return {
        "datasets": rng.choice(
            [["hopper-demo"], ["hopper-medium-v2", "walker2d-medium-v2"], ["a.hdf5", "b.hdf5+c.hdf5"]]
        ),
        "options": {"steps": rng.randint(10, 1000), "seeds": [0, 1], "eval_every": 10},
        "methods": {"bc": {"algorithm": "bc", "batch_size": 32}, "strong": {"algorithm": "td3_bc", "alpha": 2.5}},
        "metrics": rng.choice([[], ["actor_loss"]]),
    }


_STRONG = ("methods", "strong")
SUITE_CHANGES: list[Change] = [
    ("datasets", ("datasets",), [*NO_LIST, [], GONE, None, "hopper-demo"], REFUSE),
    ("a dataset", ("datasets", 0), [5, None, True, [1], {"a": 1}, "", DEEP, LAUGHS], REFUSE),
    ("a dataset's name of 300 letters", ("datasets", 0), ["x" * 300], REFUSE),
    ("a dataset elsewhere", ("datasets", 0), ["../../etc/passwd", "/etc/passwd", "a\nb", "+", "a+"], EITHER),
    ("options", ("options",), [None, *NO_MAPPING, "abc", [1]], REFUSE),
    ("steps", ("options", "steps"), [HUGE, -1, 1.5, "10", None, [1], True, float("nan"), DEEP, LAUGHS], REFUSE),
    ("no steps", ("options", "steps"), [0, 10**12], EITHER),
    (
        "seeds",
        ("options", "seeds"),
        ["abc", [], [1, 1], [1.5], [-1], [None], {"a": 1}, [HUGE], [["a"]], LAUGHS],
        REFUSE,
    ),
    ("a single seed", ("options", "seeds"), [5, None], EITHER),
    ("many seeds", ("options", "seeds"), [list(range(100_000))], REFUSE),
    ("an unknown option", ("options", "stpes"), [5], REFUSE),
    ("an option whose name is no text", ("options", 5), [5], REFUSE),
    ("an option that is the suite's", ("options", "each"), [{"alpha": [1, 2]}], REFUSE),
    ("out among the options", ("options", "out"), ["/tmp/elsewhere", 5], REFUSE),
    ("methods", ("methods",), ["bc", ["bc"], {}, 5, GONE, None, {5: {"algorithm": "bc"}}, DEEP, LAUGHS, LOOP], REFUSE),
    ("a method", _STRONG, [*NO_MAPPING, None, {}], REFUSE),
    (
        "algorithm",
        (*_STRONG, "algorithm"),
        [5, None, ["bc"], True, {"a": 1}, "", "td3bc", GONE, "x" * 3000, DEEP, LAUGHS],
        REFUSE,
    ),
    (
        "a setting of the wrong type",
        (*_STRONG, "alpha"),
        ["abc", None, [1], True, {"a": 1}, float("nan"), float("inf"), DEEP, LAUGHS, LOOP],
        REFUSE,
    ),
    ("a setting of many digits", (*_STRONG, "alpha"), [HUGE], REFUSE),
    ("a setting in words", (*_STRONG, "alpha"), ["2.5", "1e-3"], REFUSE),
    ("a setting out of range", ("methods", "bc", "batch_size"), [0, -5], REFUSE),
    ("an unknown setting", (*_STRONG, "alhpa"), [1.0], REFUSE),
    ("a setting whose name is no text", (*_STRONG, 5), [1.0], REFUSE),
    ("a name of 300 letters", ("methods", "x" * 300), [{"algorithm": "bc"}], REFUSE),
    ("two names of one file", ("methods", "b c"), [{"algorithm": "bc"}], ACCEPT),
    ("a name with signs", ("methods", "../x"), [{"algorithm": "bc"}], EITHER),
    ("an empty name", ("methods", ""), [{"algorithm": "bc"}], EITHER),
    ("metrics", ("metrics",), ["actor_loss", 5, {"a": 1}, [5], [None], [["a"]], DEEP, LAUGHS], REFUSE),
    ("a key that is not known", ("dataset",), [["a"]], REFUSE),
    ("a key that is no text", (5,), [1], REFUSE),
    ("nothing", ("metrics",), [[]], ACCEPT),
]
SUITE_CHANGES += [SUITE_CHANGES[-1]] * 10


def suite_case(rng: random.Random, folder: Path) -> Case:
    """Make a suite."""
    tree, kind, must, path = _changed(rng, valid_suite(rng), SUITE_CHANGES)
    if kind == "two names of one file":
        tree["methods"]["b-c"] = {"algorithm": "td3_bc"}
        must = REFUSE
    content, kind, must = _written(rng, tree, must, kind)
    file = folder / "suite.yaml"
    file.write_bytes(content)
    given, twice = parsed(content)

    def load() -> Any:
        suite = benchmark.read_suite(file)
        benchmark.missing(suite, folder)
        benchmark.check(suite, folder)
        return suite

    names = (r"suite\.yaml",)
    return Case(
        kind, load, len(content), must, names, lambda suite: _judge_suite(suite, given, twice), f"{kind} at {path}"
    )


def _judge_suite(suite: Any, tree: Any, twice: bool) -> str | None:
    if twice:
        return "a name stands twice in it"
    if not isinstance(tree, dict):
        return None if tree is None else "it holds no suite"
    found = {"datasets": suite.datasets, "options": suite.options, "methods": suite.methods, "metrics": suite.metrics}
    for name, value in found.items():
        if tree.get(name, type(value)()) != value:
            return f"{name} are others than in the file"
    return f"unknown keys {set(tree) - set(found)}" if set(tree) - set(found) else None
