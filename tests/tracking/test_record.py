import json

from offline_rl.tracking.record import Record, read_rows


def row(step, **values):
    return {"kind": "train", "step": step, "seed": 0, "seconds": 1.0, **values}


def steps(path):
    return [entry["step"] for entry in read_rows(path)]


def test_rows_wait_for_the_evaluation_before_them(tmp_path):
    path, shown = tmp_path / "m.jsonl", []
    record = Record(path, [lambda row: shown.append(row["step"])])
    record.add([row(1)])
    record.reserve({"step": 2})
    record.add([row(3)])
    assert steps(path) == [1]
    assert record.pending() == [
        {"rows": None, "evaluation": {"step": 2}},
        {"rows": [row(3)], "evaluation": None},
    ]
    record.fill({"step": 2}, [row(2)])
    assert steps(path) == shown == [1, 2, 3]
    assert record.pending() == []


def test_what_was_pending_is_taken_up_and_the_rest_is_cut_off(tmp_path):
    path = tmp_path / "m.jsonl"
    first = Record(path)
    first.add([row(1)])
    first.reserve({"step": 2})
    first.add([row(3)])
    kept, pending = first.sync(), json.loads(json.dumps(first.pending()))
    first.fill({"step": 2}, [row(2)])
    first.close()
    second = Record(path, keep_bytes=kept)
    second.restore(pending)
    assert steps(path) == [1]
    second.fill({"step": 2}, [row(2)])
    assert steps(path) == [1, 2, 3]


def test_nan_becomes_null(tmp_path):
    record = Record(tmp_path / "m.jsonl")
    record.add([row(1, loss=float("nan"), other=float("inf"))])
    assert '"loss": null, "other": null' in (tmp_path / "m.jsonl").read_text()


def test_a_line_that_is_cut_off_is_left_out(tmp_path):
    (tmp_path / "m.jsonl").write_text('{"kind": "train", "step": 1, "seed": 0, "seconds": 1.0}\n{"st')
    assert steps(tmp_path / "m.jsonl") == [1]
