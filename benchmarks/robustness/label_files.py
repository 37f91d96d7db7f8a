"""Files of labelled pairs: archives of arrays, and pickles."""

import io
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.robustness.cases import Case
from benchmarks.robustness.damage import damaged
from benchmarks.robustness.forked import forked
from offline_rl.preferences import labels

Arrays = dict[str, Any]
PAIRS, STEPS = 6, 5


def _put(array: np.ndarray, rng: random.Random, value: Any) -> np.ndarray:
    changed = np.array(array, np.float64)
    changed.reshape(-1)[rng.randrange(changed.size)] = value
    return changed


# Archives.


def _archive(rng: random.Random) -> Arrays:
    generator = np.random.default_rng(rng.randrange(2**32))
    kind = rng.choice(["f4", "f8"])
    arrays: Arrays = {name: generator.normal(size=(PAIRS, STEPS, 3)).astype(kind) for name in ("obs_1", "obs_2")}
    arrays |= {name: generator.uniform(-1, 1, (PAIRS, STEPS, 2)).astype(kind) for name in ("action_1", "action_2")}
    return {**arrays, "label": generator.choice([0, 1, 0.5], PAIRS)}


CONTENT = ("obs_1", "obs_2", "action_1", "action_2")
ARCHIVE: list[tuple[str, str, Callable[[random.Random, Arrays], Any]]] = [
    ("nothing", "accept", lambda rng, a: None),
    (
        "a label of another value",
        "refuse",
        lambda rng, a: a.update(label=_put(a["label"], rng, rng.choice([-1, 2, 0.25, 1e-9]))),
    ),
    (
        "a label that is not finite",
        "refuse",
        lambda rng, a: a.update(label=_put(a["label"], rng, rng.choice([np.nan, np.inf]))),
    ),
    ("a value missing", "refuse", lambda rng, a: _in_one(rng, a, lambda x: _put(x, rng, np.nan))),
    ("beyond single precision", "refuse", lambda rng, a: _in_one(rng, a, lambda x: _put(x, rng, 1e39))),
    ("a field left out", "refuse", lambda rng, a: a.pop(rng.choice(list(a)))),
    (
        "another shape",
        "refuse",
        lambda rng, a: _in_one(rng, a, lambda x: rng.choice([x[1:], x[:, 1:], x[0], x[..., None], x[..., :1]])),
    ),
    ("too few labels", "refuse", lambda rng, a: a.update(label=a["label"][1:])),
    ("no pairs", "refuse", lambda rng, a: a.update({name: value[:0] for name, value in a.items()})),
    (
        "of another type",
        "refuse",
        lambda rng, a: _in_one(rng, a, lambda x: x.astype(rng.choice(["c8", "S4", "M8[s]", "?"]))),
    ),
    ("words", "refuse", lambda rng, a: a.update(label=np.array(["first"] * PAIRS))),
    ("objects", "refuse", lambda rng, a: _in_one(rng, a, lambda x: x.astype(object))),
    ("labels as a column", "accept", lambda rng, a: a.update(label=a["label"][:, None])),
    ("labels as truth values", "either", lambda rng, a: a.update(label=a["label"] > 0.5)),
    ("another field", "either", lambda rng, a: a.update(note=np.zeros(3))),
    ("of half precision", "either", lambda rng, a: _in_one(rng, a, lambda x: x.astype("f2"))),
]


def _in_one(rng: random.Random, arrays: Arrays, change: Callable[[Any], Any]) -> None:
    name = rng.choice(CONTENT)
    arrays[name] = change(arrays[name])


def archive_case(rng: random.Random, folder: Path) -> Case:
    """Make an archive of arrays."""
    arrays = _archive(rng)
    kind, must, change = rng.choice(ARCHIVE)
    change(rng, arrays)
    if kind == "of another type" and any(value.dtype.kind == "b" for value in arrays.values()):
        must = "either"
    stream = io.BytesIO()
    (np.savez_compressed if rng.random() < 0.5 else np.savez)(stream, allow_pickle=True, **arrays)
    content, judged = stream.getvalue(), True
    way = rng.random()
    if way < 0.3:
        # An archive has checksums of its arrays, not of all else: what can still be read must be what it was.
        content, kind = damaged(content, rng)
        must = "refuse" if must == "refuse" else "either"
    elif way < 0.32:
        content, kind, must, judged = _bomb(rng), "a bomb", "either", False
    file = folder / "pairs.npz"
    file.write_bytes(content)
    return Case(
        kind,
        lambda: labels.read(file),
        len(content),
        must,
        (r"pairs\.npz",),
        lambda found: _judge_archive(found, arrays) if judged else None,
        kind,
    )


def _bomb(rng: random.Random) -> bytes:
    """Return a small archive that declares, or holds, a hundred times as much as may be."""
    stream = io.BytesIO()
    rows = rng.choice([1 << 20, 1 << 24, 1 << 40])
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name in (*CONTENT, "label"):
            header = io.BytesIO()
            shape = (rows, 4, 4) if name != "label" else (rows,)
            np.lib.format.write_array_header_1_0(header, {"descr": "|i1", "fortran_order": False, "shape": shape})
            with file.open(f"{name}.npy", "w") as member:
                member.write(header.getvalue())
                for _ in range(min(rows, 1 << 20) // (1 << 16) * 16):
                    member.write(bytes(1 << 16))
    return stream.getvalue()


def _judge_archive(found: labels.Contents, arrays: Arrays) -> str | None:
    wanted = {
        "observations": (found.observation, np.stack([arrays["obs_1"], arrays["obs_2"]], 1)),
        "actions": (found.action, np.stack([arrays["action_1"], arrays["action_2"]], 1)),
        "labels": (found.label, np.asarray(arrays["label"], np.float64).reshape(-1)),
    }
    for name, (one, other) in wanted.items():
        if one.shape != other.shape or not np.allclose(one, other, rtol=3e-7, atol=1e-38):
            return f"{name} are others than in the file"
    return None


# Pickles.

Codes = list[tuple[str, str, Callable[[random.Random], Any]]]
LABELS: Codes = [
    ("nothing", "accept", lambda rng: np.array([rng.choice([0, 1, -1]) for _ in range(PAIRS)])),
    (
        "probabilities",
        "accept",
        lambda rng: np.array([rng.choice([(0.0, 1.0), (0.25, 0.75), (1.0, 0.0)]) for _ in range(PAIRS)]),
    ),
    ("a list of labels", "accept", lambda rng: [rng.choice([0, 1, -1]) for _ in range(PAIRS)]),
    ("a label of another value", "refuse", lambda rng: np.array([0, 1, 2, 1, 0, 1])),
    ("a label that is not finite", "refuse", lambda rng: np.array([0, 1, rng.choice([np.nan, np.inf]), 1, 0, 1])),
    ("probabilities that do not add up", "refuse", lambda rng: np.array([(0.5, 0.6)] * PAIRS)),
    ("negative probabilities", "refuse", lambda rng: np.array([(-0.5, 1.5)] * PAIRS)),
    ("no labels", "refuse", lambda rng: np.array([])),
    ("a single label", "refuse", lambda rng: 1),
    ("words", "refuse", lambda rng: ["first"] * PAIRS),
    ("nothing at all", "refuse", lambda rng: None),
    ("a mapping", "refuse", lambda rng: {"labels": [0, 1]}),
    ("objects", "refuse", lambda rng: np.array([object] * PAIRS, object)),
    ("complex labels", "refuse", lambda rng: np.array([1j] * PAIRS)),
    ("three columns", "refuse", lambda rng: np.zeros((PAIRS, 3))),
    ("nested lists", "refuse", lambda rng: [[[0], [1]]] * PAIRS),
    ("rows of other lengths", "refuse", lambda rng: [[0, 1], [1]] * 3),
    ("a long number", "refuse", lambda rng: [0, 1, 10**300, 0, 1, 0]),
    ("truth values", "either", lambda rng: [True, False] * 3),
]
STARTS: Codes = [
    ("nothing", "accept", lambda rng: np.array([rng.randrange(100) for _ in range(PAIRS)])),
    ("nothing", "accept", lambda rng: [rng.randrange(100) for _ in range(PAIRS)]),
    ("more indices than labels", "accept", lambda rng: np.arange(PAIRS + 4)),
    ("fewer indices than labels", "refuse", lambda rng: np.arange(PAIRS - 1)),
    ("indices with a fraction", "refuse", lambda rng: np.arange(PAIRS) + 0.5),
    ("indices that are words", "refuse", lambda rng: ["a"] * PAIRS),
    ("indices that are objects", "refuse", lambda rng: np.array([None] * PAIRS)),
    ("large indices", "either", lambda rng: np.array([2**63] * PAIRS, np.uint64)),
    ("negative indices", "either", lambda rng: np.array([-5] * PAIRS)),
]


class _Numbers(pickle.Unpickler):
    """Reads what NumPy's own functions make of a pickle; in a child of its own, and nothing else is called."""

    def find_class(self, module: str, name: str) -> Any:
        if (module.split(".", maxsplit=1)[0], name) not in {
            ("numpy", n) for n in ("ndarray", "dtype", "_reconstruct", "scalar", "_frombuffer")
        } | {("_codecs", "encode")}:
            raise ValueError("no number")
        return super().find_class(module, name)


def pickle_case(rng: random.Random, folder: Path) -> Case:
    """Make a folder of pickles: labels, and the rows at which segments start."""
    number = rng.randrange(3)
    made = []
    for place, choices in enumerate((LABELS, STARTS, STARTS)):
        chosen = rng.choice(choices) if place == number else choices[0]
        made.append((chosen[0], chosen[1], chosen[2](rng)))
    kind, must, _ = made[number]
    stems = ("label_human", "indices_num", "indices_2")
    contents = [pickle.dumps(value, protocol=rng.choice([0, 2, 4, 5])) for _, _, value in made]
    judged: list[Any] = [value for _, _, value in made]
    way = rng.random()
    if way < 0.3:
        contents[number], kind = damaged(contents[number], rng)
        judged[number] = forked(lambda: _reread(contents[number]))
        must = "refuse" if isinstance(judged[number], str) else "either"
        if str(judged[number]).startswith("SystemError"):  # NumPy says nothing then
            must, judged = "either", []
    elif way < 0.34:
        number = 0
        contents[0], kind, must = _hostile(rng)
        judged = []
    for stem, content in zip(stems, contents, strict=True):
        (folder / f"{stem}_len_20.pkl").write_bytes(content)
    size = sum(map(len, contents))
    names = (rf"{stems[number]}|label_human" if number else stems[0],)
    return Case(
        kind,
        lambda: labels.read(folder),
        size,
        must,
        names,
        lambda found: _judge_pickles(found, judged) if judged else None,
        kind,
    )


def _reread(content: bytes) -> Any:
    value = _Numbers(io.BytesIO(content)).load()
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or array.size > 10**6:
        raise ValueError("no numbers")
    return array


def _hostile(rng: random.Random) -> tuple[bytes, str, str]:
    """Return a pickle that asks for more than its size."""
    text = b"X" + struct.pack("<I", 4 << 20) + b"a" * (4 << 20)
    return rng.choice(
        [
            (
                b"\x80\x02c_codecs\nencode\nq\x00" + text + b"q\x0100(" + b"h\x00h\x01\x85R" * 1000 + b"l.",
                "work by references",
                "refuse",
            ),
            (b"\x80\x02](" + b"\x88" * (8_000_000) + b"e.", "many truth values", "refuse"),
            (b"\x80\x02](" + b"K\x01" * 3_000_000 + b"e.", "many small numbers", "either"),
            (b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.", "code", "refuse"),
            (b"\x80\x02(" + b"(" * 500_000 + b"t" * 500_000 + b"t.", "deep nesting", "refuse"),
            (b"\x80\x02]q\x00h\x00a.", "a list of itself", "refuse"),
            (b"\x80\x02K\x01r\xff\xff\xff\x7f.", "a far place in memory", "refuse"),
            (b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"a.", "a text of an exabyte", "refuse"),
            (b"", "an empty file", "refuse"),
        ]
    )


def _judge_pickles(found: labels.Starts, judged: list[Any]) -> str | None:
    label, first, second = (np.asarray(value) for value in judged)
    if label.ndim == 2 and label.shape[1] == 2:
        wanted = label[:, 1]
    else:
        flat = label.reshape(-1).astype(np.float64)
        wanted = np.where(flat == -1, 0.5, flat)
    if found.label.shape != wanted.shape or not np.allclose(found.label, wanted):
        return "labels are others than in the file"
    starts = np.stack([first.reshape(-1)[: len(wanted)], second.reshape(-1)[: len(wanted)]], 1).astype(np.float64)
    clipped = np.clip(starts, -1, np.iinfo(np.int64).max)
    return None if np.allclose(found.start, clipped) else "first rows are others than in the file"
