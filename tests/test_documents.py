"""JSON and YAML that somebody else has written: within bounds, of plain values, of the shape that is needed."""

import json
import time

import pytest

from offline_rl.documents import Least, check, parse_json, parse_yaml, read_json
from offline_rl.errors import RunError, brief, quoted

BOMB = ", ".join(
    [
        "&a [x, x, x, x, x, x, x, x, x]",
        *(f"&{own} [{', '.join([f'*{other}'] * 9)}]" for other, own in zip("abcdef", "bcdefg", strict=True)),
    ]
)


def refusal(parse, text):
    began = time.process_time()
    with pytest.raises(ValueError, match=r"(?s)^") as caught:
        parse(text)
    assert time.process_time() - began < 2
    assert len(str(caught.value)) < 400
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"method: [{BOMB}]", "stands for over 100,000 values"),
        ("values: &a [*a, 1]", "stands within what it names"),
        ("parameters: &a {x: {parameters: *a}}", "stands within what it names"),
        ("[" * 50_000, "nested too deep"),
        ("a: " + "{a: " * 60 + "1" + "}" * 60, "nested too deep"),
        ("".join(f"{a}: &{a} {'[' * 10}{b}{']' * 10}\n" for a, b in zip("abcd", ["1", "*a", "*b", "*c"], strict=True)),
         "nested too deep"),
        ("a: 1\nb: 2\na: 3", "names 'a' twice"),
        ("a: {b: 1, 'b': 2}", "names 'b' twice"),
        ("name: !!set {a}", "name is a set to YAML"),
        ("name: 2020-01-01", "name is a date to YAML"),
        ("name: !!binary aGk=", "name is a bytes to YAML"),
        ("name: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: .nan", "a is nan, which is no finite number"),
        ("a: [1, -.inf]", "a[1] is -inf"),
        ("a: " + "9" * 400, "over 64 digits"),
        ("a: " + "9" * 5000, "thousands of digits"),
        ("a: 0x" + "f" * 9000, "over 64 digits"),
        ("a: " + "1:" * 4000 + "1", "over 64 digits"),
        ("a: '" + "x" * 20_000 + "'", "over 10,000 signs"),
        ("a: [1", "did not find expected ',' or ']'"),
        ("? [a]\n: b", "unhashable"),
        ("? !!timestamp 2020-01-01\n: b", "names must be texts"),
        (b"a: \xff", "no text in UTF-8"),
    ],
)  # fmt: skip
def test_yaml_beyond_bounds_is_refused_soon_and_shortly(text, said):
    assert said in refusal(parse_yaml, text)


def test_yaml_that_people_write_is_read():
    text = "base: &base {steps: 10, seeds: [0, 1]}\nmethods:\n  é: {<<: *base, steps: 20}\nnote: null\nrate: 1.0e-3"
    expected = {"base": {"steps": 10, "seeds": [0, 1]}, "methods": {"é": {"steps": 20, "seeds": [0, 1]}}}
    assert parse_yaml(text.encode()) == {**expected, "note": None, "rate": 0.001}
    assert parse_yaml("") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "nested too deep"),
        ("[" * 45 + "]" * 45, "nested too deep"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "names 'c' twice"),
        ("[NaN]", "holds NaN"),
        ("[-Infinity]", "holds -Infinity"),
        ('{"a": [1e999]}', "a[0] is inf"),
        ('{"a": ' + "9" * 400 + "}", "a is a number of over 64 digits"),
        ("9" * 5000, "thousands of digits"),
        (json.dumps([0] * 200_000), "over 100,000 values"),
        (b'{"a": "\xe9"}', "byte 7 is no text in UTF-8"),
        ("{", "Expecting property name"),
    ],
)
def test_json_beyond_bounds_is_refused_soon_and_shortly(text, said):
    assert said in refusal(parse_json, text)


SHAPE = {"name": str, "count?": Least(int, 1), "seeds": [int], "point?": [int, (float, None)], "more?": {str: float}}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], r"^it is \[\]; it must be names with values$"),
        ({"seeds": []}, "^it has no name$"),
        ({"name": 5, "seeds": []}, "^name is 5; it must be a text$"),
        ({"name": "x" * 20_000, "seeds": []}, r"^name is 'x{99}\.\.\.; it must be a text$"),
        ({"name": "a", "seeds": 5}, "^seeds is 5; it must be a list$"),
        ({"name": "a", "seeds": [1, True]}, r"^seeds\[1\] is True; it must be a whole number$"),
        ({"name": "a", "seeds": [2**70]}, r"^seeds\[0\] is \d+; it must be a whole number$"),
        ({"name": "a", "seeds": [], "count": 0}, "^count is 0; it must be a whole number of at least 1$"),
        ({"name": "a", "seeds": [], "point": [1]}, "^point is .*; it must be a list of 2 entries$"),
        ({"name": "a", "seeds": [], "point": [1, "x"]}, r"^point\[1\] is 'x'; it must be a finite number or nothing$"),
        ({"name": "a", "seeds": [], "more": {"b": 1e300}}, r"^more\.b is 1e\+300; it must be a finite number$"),
    ],
)
def test_a_value_of_another_shape_is_refused_with_its_field(value, said):
    with pytest.raises(ValueError, match=said):
        check(value, SHAPE)


def test_a_value_of_the_shape_is_taken():
    check({"name": "a", "seeds": [1], "point": [0, None], "more": {"b": 1, "c": 0.5}, "unknown": object}, SHAPE)


def test_a_file_that_is_none_or_too_large_is_refused(tmp_path):
    (tmp_path / "large").write_bytes(b" " * (5 << 20))
    for name, said in ((".", "it is no file"), ("x", "No such file"), ("large", "over 4,194,304")):
        path = tmp_path / name
        with pytest.raises(RunError, match=said):
            read_json(path, RunError, "take another")


def test_what_is_quoted_is_cut_short_and_on_one_line():
    assert brief("a\n b " + "x" * 400) == f"a b {'x' * 296}..."
    assert len(quoted(["x"] * 1000)) == 103
    assert quoted(10**5000) == "something too large to show (int)"
