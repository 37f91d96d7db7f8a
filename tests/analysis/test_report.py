"""Reports and comparisons of results that are made by hand, and of committed ones; the page in a real browser."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.browser import BROWSER, Page
from helpers.records import made

from offline_rl.analysis.comparison import PROTOCOL, PUBLISHED, compare, published, published_rows
from offline_rl.analysis.figures import COLOURS
from offline_rl.analysis.groups import grouped
from offline_rl.analysis.report import _ends, report
from offline_rl.analysis.tables import table
from offline_rl.cli.main import main
from offline_rl.errors import RunError
from offline_rl.files import sealed, write_json

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path.parent for path in ROOT.glob("results/*/curves.png"))


def write(folder, *results):
    folder.mkdir(exist_ok=True)
    for number, result in enumerate(results):
        (folder / f"{number}.json").write_text(json.dumps(result))
    return folder


def section(folder, name):
    return re.search(rf"## {name}\n\n(.*?)(\n## |\Z)", (folder / "report.md").read_text(), re.DOTALL)[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in ROOT.glob("results/*/curves.png")), ids=lambda p: p.name
)
def test_a_committed_report_is_made_again_to_the_byte(folder, tmp_path):
    """Fails if a picture holds a date or a version, or a number is drawn from a generator without a seed."""
    suite = ROOT / "benchmarks" / f"{folder.name}.yaml"
    options = ["--suite", str(suite)] if suite.exists() else []
    assert main(["report", str(folder), "--out", str(tmp_path / "once"), *options]) == 0
    for name in ("table.md", "curves.png"):
        assert (tmp_path / "once" / name).read_bytes() == (folder / name).read_bytes()
    if folder.name == "trajectories":
        # Another process orders sets in another way.
        command = [sys.executable, "-m", "offline_rl", "report", str(folder), "--out", str(tmp_path / "again")]
        subprocess.run(command, check=True, capture_output=True)
        once, again = ({path.name: path.read_bytes() for path in (tmp_path / p).iterdir()} for p in ("once", "again"))
        assert len(once) == 9
        assert once == again


def test_a_changed_score_stops_the_report_with_the_files_name(tmp_path, capsys):
    first, second = made([10.0, 20.0])
    write(tmp_path, first, second | {"score_last": 99.0})
    assert main(["report", str(tmp_path)]) == 2
    assert re.fullmatch(
        r"error: \S+1\.json cannot be read \(its content does not fit its checksum.*\n", capsys.readouterr().err
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.json", "1.json"]


def test_every_format_shows_the_same_cells(tmp_path):
    report(write(tmp_path, *made([10.0, 20.0, 30.0])))
    assert "20.0 ± 24.8" in (tmp_path / "report.md").read_text()
    assert r"beads & made\_up & 20.0 $\pm$ 24.8" in (tmp_path / "report.tex").read_text()
    rows = list(csv.DictReader((tmp_path / "report.csv").open()))
    assert [(row["seed"], float(row["score_last"])) for row in rows] == [("0", 10.0), ("1", 20.0), ("2", 30.0)]
    assert "20.0 [10.0, 30.0]" in section(tmp_path, "Aggregates")


def test_the_page_needs_nothing_else(tmp_path):
    """Broken by a script, a font or a picture from elsewhere; a browser is asked below, where there is one."""
    text = report(write(tmp_path, *made([10.0, 20.0]))).read_text()
    assert set(re.findall(r"https?://[^\s\"'`<)]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert set(re.findall(r"\b(?:src|href)\s*=\s*\W?([\w:/.]*)", text)) <= {"data:"}
    assert not re.search(r"@import|\bimport\b|\bfetch\(|XMLHttpRequest|url\(", text)


def test_results_that_do_not_compare_share_no_cell_and_the_report_says_why(tmp_path):
    """Fails if one of these is left out of the conditions of a cell."""
    results = made([10.0, 12.0]) + made([50.0], dynamics="plain") + made([5.0], name="pebbles", algorithm="other")
    report(write(tmp_path, *results))
    cells = section(tmp_path, "Split and empty cells")
    assert "made_up on beads is split into 2 rows: dynamics d4rl or dynamics plain." in cells
    assert "other on beads is empty" in cells
    assert "made_up on pebbles is empty" in cells


def test_the_order_of_results_changes_nothing():
    """Broken by lines under the table that follow the order in which runs were made, or files read."""
    results = [
        *made([1.0, 2.0], name="beads"),
        *made([3.0, 4.0], name="abaci", compute={"device": "cuda", "kernel": "default"}),
    ]
    results[1]["note"], results[2]["note"] = "Cold.", "Warm."
    text = table(results)
    assert "abaci, 100 rows" in text
    assert text == table(results[::-1])


def test_settings_of_one_algorithm_have_an_expected_best(tmp_path):
    report(write(tmp_path, *made([0.0]), *made([10.0], alpha=1.0)))
    assert "| beads | made_up | 2 | 5.0 | 7.5 | 8.8 | 9.7 | 10.0 |" in section(tmp_path, "Best of several settings")


def test_published_numbers_stand_beside_ours_with_their_source():
    """Fails if runs of another length are said to agree with published ones, or if one interval is left out.

    CORL's score is 60.4 with an interval of 6.4 to either side, as its ± is that of a population; ours have one of 2.5.
    """
    changes = {"name": "hopper_medium-v2", "algorithm": "td3_bc"}
    short = published_rows(grouped(made([60.0, 61.0, 59.0], **changes)))
    assert {row[4] for row in short} == {"not compared: ours after 40 updates, theirs after 1,000,000"}
    for scores, mark in (
        ([60.0, 61.0, 59.0], "✓ overlap"),
        ([67.0, 68.0, 66.0], "✓ overlap"),
        ([69.0, 70.0, 68.0], "✓ overlap"),
        ([70.0, 71.0, 69.0], "✗ apart"),
        ([60.0], "unknown: no interval"),
    ):
        results = made(scores, **changes)
        for result in results:
            result["options"]["steps"] = 1_000_000
        row = published_rows(grouped(results))[0]
        assert row[3:] == ["60.37 ± 3.49", mark, "CORL"]
    for change, reason in (
        ({"dynamics": "plain"}, "on other dynamics"),
        ({"online_steps": 20}, "after a phase in the"),
    ):
        (*_, mark, _) = published_rows(grouped(made([60.0, 61.0, 59.0], **changes, steps=1_000_000, **change)))[0]
        assert mark.startswith(f"not compared: ours {reason}")
    assert not published_rows(grouped(made([60.0], algorithm="td3_bc")))
    assert not published(grouped(made([60.0], algorithm="td3_bc")))


def test_every_published_number_comes_with_its_protocol():
    """Broken by a number of 4 seeds and stronger critics that stands beside ours as if it were made like ours."""
    results = made([60.0, 61.0, 59.0], name="hopper-medium-v2", algorithm="td3_bc", steps=1_000_000)
    marks = {row[5]: row[4] for row in published_rows(grouped(results))}
    assert marks["RAPO's authors"] == "not compared: theirs with critics of 3 layers with LayerNorm"
    text = published(grouped(results))
    assert "\n* CORL (td3_bc): 1,000,000 updates, 10 episodes, 4 seeds, the last agent, ± of a population, one" in text
    assert "\n* ReBRAC's authors (td3_bc): 1,000,000 updates, 10 episodes, 10 seeds, the last agent" in text
    a2pr = published(grouped(made([90.0], name="hopper-medium-v2", algorithm="a2pr")))
    assert (
        "\n* A2PR's paper (a2pr): tuned per dataset; not known: updates, episodes, seeds, which agent, which ±" in a2pr
    )


def test_a_score_of_few_episodes_says_so():
    """AntMaze scores there are made of 4 seeds of 10 episodes; those of locomotion cannot tell."""
    maze = published(grouped(made([45.0], name="antmaze-medium-play-v2", algorithm="a2pr")))
    assert "| 45.0 ± 30.0 † |" in maze
    assert "a multiple of 2.5" in maze
    assert "†" not in published(grouped(made([90.0], name="hopper-medium-v2", algorithm="a2pr")))


@pytest.mark.parametrize("source", json.loads(PUBLISHED.read_text())["sources"], ids=lambda source: source["name"])
def test_published_sources_are_whole(source):
    """Broken by a source without a fact of its protocol, where null would say that nobody knows it."""
    assert {*PROTOCOL, "name", "source", "known", "scores"} <= set(source)
    cells = {name: cell for row in source["scores"].values() for name, cell in row.items()}
    assert set(source.get("exceptions", {})) <= set(cells)
    assert all(len(cell) == 2 and -5 < cell[0] < 130 for cell in cells.values())


def test_a_comparison_says_what_changed_and_whether_it_is_noise():
    first = made([10.0, 11.0, 12.0])
    text = compare(
        first, made([50.0, 51.0, 52.0], alpha=40.0, hardware={"machine": "slide rule", "cores": 1, "gpu": None})
    )
    assert "| beads | made_up | 11.0 ± 2.5 | 51.0 ± 2.5 | -40.0 ± 2.3 | more than noise" in text
    assert "* made_up on beads: alpha 2.5 → 40.0" in text
    assert "* made_up on beads: machine abacus → slide rule" in text
    assert "within noise" in compare(first, made([10.5, 11.5, 12.5]))
    assert "too few seeds: no interval" in compare(first, made([50.0]))
    assert "is in the second only" in compare(first, first + made([1.0], name="pebbles"))
    assert "several settings share this name" in compare(first, first + made([1.0], alpha=1.0))


def test_two_runs_of_different_methods_are_a_pair():
    """Broken by pairs that are made by name alone."""
    text = compare(made([10.0, 11.0]), made([1.0, 2.0, 3.0], algorithm="other"))
    assert "| beads | made_up less other | 10.5 ± 6.4 | 2.0 ± 2.5 | 8.5 ± " in text
    assert "* made_up less other on beads: algorithm made_up → other" in text
    assert "only." not in text
    renamed = made([1.0, 2.0], algorithm="other", name="pearls")
    assert "| made_up less other |" in compare(made([10.0, 11.0]), renamed)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (made([1.0]), made([1.0], name="pebbles", fingerprint="0" * 64)),
        (made([1.0]), made([1.0], algorithm="a") + made([1.0], algorithm="b")),
    ],
)
def test_where_nothing_is_on_both_sides_there_is_nothing_to_compare(first, second, tmp_path, capsys):
    one, other = write(tmp_path / "one", *first), write(tmp_path / "other", *second)
    assert main(["compare", str(one), str(other)]) == 2
    assert capsys.readouterr().err.startswith("error: nothing to compare, because the first is made_up on beads and")


def test_comparisons_are_counted_as_they_are_spoken_of():
    """Comparisons without an interval are none."""
    several = made([1.0, 2.0]) + made([1.0, 2.0], name="pebbles")
    assert "With 2 comparisons, one in twenty" in compare(several, several)
    assert "one comparison in twenty shows one by chance" in compare(several[:2], several[:2])
    assert "one in twenty" not in compare(made([1.0]), made([2.0]))
    assert "| -1.0 ± – | too few seeds: no interval |" in compare(made([1.0]), made([2.0]))
    assert "| -1.0 ± – | seeds do not scatter: no interval |" in compare(made([1.0, 1.0]), made([2.0, 2.0]))


@pytest.mark.parametrize("scores", [[2.4], [2.4, 2.4, 2.4]])
def test_an_interval_that_runs_cannot_give_is_a_dash_in_every_format(scores, tmp_path):
    """Broken by a bootstrap that has nothing to draw from, and prints its point twice."""
    rival = made([50.0 + score for score in scores], algorithm="rival")
    page = report(write(tmp_path, *made(scores), *rival))
    aggregates, improvement = section(tmp_path, "Aggregates"), section(tmp_path, "Probability of improvement")
    assert "| made_up | 2.4 [–] | 97.6 [–] |" in aggregates
    assert "| made_up | – | 0.00 [–] |" in improvement
    text = page.read_text()
    assert "2.4 [–]" in text
    assert not re.search(r"(\d+\.\d+) \[\1, \1\]", text + (tmp_path / "report.md").read_text())
    if len(scores) == 1:
        assert "2.4 ± –" in (tmp_path / "report.tex").read_text().replace("$\\pm$ --", "± –")
        curves = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])["curves"]
        assert {value for curve in curves for value in (*curve["low"], *curve["high"])} == {None}


def test_compare_is_a_command(tmp_path, capsys):
    one = write(tmp_path / "one", *made([10.0, 11.0, 12.0]))
    assert main(["compare", str(one), str(one)]) == 0
    assert "* Nothing that results record." in capsys.readouterr().out
    assert main(["compare", str(one), str(tmp_path / "none")]) == 2


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
def test_the_page_works_in_a_browser(tmp_path):
    """Fails if sorting compares text, a filter forgets the curves, or anything is asked of the network."""
    results = (
        made([10.0, 12.0]) + made([9.0, 9.5], algorithm="other") + made([100.0], name="</script><b>", algorithm="other")
    )
    page = Page(report(write(tmp_path / "results", *results)).as_uri(), tmp_path / "browser")
    column = (
        "[...document.querySelectorAll('.results tbody tr:not(.own) td:nth-child(3)')]"
        ".map(cell => cell.textContent.split(' ')[0])"
    )
    choose = "(name, value) => { const s = document.querySelector(name); s.value = value; s.onchange({ target: s }); }"
    try:
        assert page.run(column) == ["100.0", "11.0", "9.2"]
        page.run("document.querySelectorAll('.results th button')[2].click()")
        assert page.run(column) == ["100.0", "11.0", "9.2"]
        page.run("document.querySelectorAll('.results th button')[2].click()")
        assert page.run(column) == ["9.2", "11.0", "100.0"]
        assert page.run("document.querySelectorAll('polyline.curve').length") == 3
        page.run(f"({choose})('#method', 'other')")
        assert page.run(column) == ["9.2", "100.0"]
        page.run(f"({choose})('#dataset', 'beads')")
        assert page.run(column) == ["9.2"]
        assert page.run("document.querySelectorAll('polyline.curve').length") == 1
        page.run("""{ const svg = document.querySelector('figure svg'), box = svg.getBoundingClientRect();
            svg.dispatchEvent(new PointerEvent('pointermove', { clientX: box.right - 5, clientY: box.top + 9 })); }""")
        assert page.run("document.querySelector('.reading').textContent").startswith("step 40: other 9.3 [")
        for width in (390, 1366):
            page.resize(width)
            assert page.run("document.documentElement.scrollWidth") <= width
        problems = [
            e
            for e in page.events
            if e["method"] in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        ]
        assert not problems
        asked = [e["params"]["request"]["url"] for e in page.events if e["method"] == "Network.requestWillBeSent"]
        assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
        assert len([url for url in asked if url.startswith("file:")]) == 1
    finally:
        page.close()


LAYOUT = """(() => {
  const all = selector => [...document.querySelectorAll(selector)];
  return {
    scales: all("figure svg").map(svg => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width),
    heights: all("figure svg text:not(.axis)").map(text => text.getBoundingClientRect().height),
    beyond: all("figure svg text").filter(text => {
      const [own, box] = [text.getBoundingClientRect(), text.ownerSVGElement.getBoundingClientRect()];
      return own.left < box.left - 1 || own.right > box.right + 1 || own.bottom > box.bottom + 1;
    }).length,
    widths: all("figure").map(figure => figure.clientWidth),
    legends: all(".legend").length, entries: all(".legend > *").map(entry => entry.textContent),
    axes: all("figure svg text.axis").map(text => text.textContent), data: all("figure svg line.data").length,
    boxes: all(".wide").every(box => box.getBoundingClientRect().right <= innerWidth),
    sticky: all("#sections .wide td:first-child").every(cell => getComputedStyle(cell).position === "sticky"),
    colours: all(".legend button line").map(line => line.getAttribute("stroke")),
    width: document.documentElement.scrollWidth,
    backticks: document.body.innerText.includes("`"), title: document.title,
  };
})()"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
@pytest.mark.parametrize("count", [1, 9])
def test_the_page_is_whole_at_every_width(count, tmp_path):
    """Fails if a single panel is stretched over the page, its text with it, or a table is cut."""
    results = [
        {**result, "date": "2026-11-01"}
        for number in range(count)
        for name in ("zebra", "ape")
        for result in made(
            [10.0, 20.0, 30.0], algorithm=name, name=f"data-{number}", fingerprint=f"{number}" * 64, steps=1_000_000
        )
    ]
    write(tmp_path / "results", *map(sealed, results))
    page = Page(report(tmp_path / "results", methods=["zebra", "ape"]).as_uri(), tmp_path / "browser")
    try:
        for width in (390, 1366, 1920):
            page.ask(
                "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 700
            )
            page.run("onresize()")
            found = page.run(LAYOUT)
            assert found["scales"] == pytest.approx([1.0] * count, rel=0.01)
            assert max(found["heights"]) < 20
            assert not found["beyond"]
            assert max(found["widths"]) <= 840
            assert found["legends"] == 1
            assert found["entries"] == ["zebra (n = 3)", "ape (n = 3)", "mean of the data"]
            assert found["colours"] == list(COLOURS[:2])
            assert found["axes"] == ["normalised score"] * count
            assert found["data"] == count
            assert found["boxes"]
            assert found["sticky"]
            assert found["width"] <= width
            assert not found["backticks"]
            assert found["title"] == "Results: results"
        said = page.run("document.querySelector('.about').textContent")
        assert said == f"{6 * count} runs of 2 methods on {count} dataset{'s' * (count > 1)}, made 2026-11-01."
        page.run("document.querySelector('.legend button').click()")
        assert page.run("document.querySelectorAll('.panels.chosen g.chosen').length") == count
    finally:
        page.close()


def test_a_report_says_when_its_results_were_made(tmp_path):
    """Broken by today's date, which would change the report's bytes."""
    first, second = made([10.0, 20.0])
    write(tmp_path, sealed({**first, "date": "2026-11-02"}), sealed({**second, "date": "2026-11-01"}))
    report(tmp_path)
    begin = f"# Results: {tmp_path.name}\n\n2 runs of 1 method on 1 dataset, made 2026-11-01 to 2026-11-02.\n"
    assert (tmp_path / "report.md").read_text().startswith(begin)


@pytest.mark.parametrize("ends", [None, (0.331, 0.334), (1.0, 1.0)])
def test_an_interval_that_rounds_to_a_point_is_none(ends):
    """Broken by 0.33 [0.33, 0.33], which reads as certainty."""
    assert _ends(ends, 2) == "[–]"
    assert _ends((0.33, 0.34), 2) == "[0.33, 0.34]"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("blocked", ["report.md", "table.md", "curves.svg"])
def test_a_report_appears_whole_or_not_at_all(tmp_path, blocked):
    """Fails if the files are written one after the other: tables of one report beside figures of another."""
    results, out = tmp_path / "results", tmp_path / "out"
    results.mkdir()
    for number, result in enumerate(made([10.0, 12.0])):
        write_json(results / f"{number}.json", result)
    report(results, out)
    before = contents(out)
    write_json(results / "0.json", sealed({**made([99.0, 12.0])[0]}))
    (out / blocked).unlink()
    (out / blocked).mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        report(results, out)
    assert contents(out) == {name: content for name, content in before.items() if name != blocked}
    assert sorted(path.name for path in out.iterdir()) == sorted(before)
    (out / blocked).rmdir()
    report(results, out)
    assert set(contents(out)) == set(before)
    assert contents(out)["report.csv"] != before["report.csv"]


def test_figures_of_an_older_report_do_not_stay_beside_a_new_one(tmp_path):
    for number, result in enumerate(made([10.0, 12.0])):
        write_json(tmp_path / f"{number}.json", result)
    report(tmp_path)
    assert (tmp_path / "profiles.png").exists()
    write_json(tmp_path / "0.json", made([None, 12.0])[0])
    report(tmp_path)
    assert not list(tmp_path.glob("profiles.*"))


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_a_place_that_cannot_be_written_is_named(tmp_path, out):
    (tmp_path / "r").mkdir()
    (tmp_path / "file").write_text("")
    write_json(tmp_path / "r" / "0.json", made()[0])
    with pytest.raises(RunError, match=r"file.* cannot be written .*; choose another --out"):
        report(tmp_path / "r", tmp_path / out)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": 5}, "method is 5; it must be a text"),
        ({"final": ...}, "it has no final"),
        ({"final": {}}, "final has no step"),
        ({"dataset": None}, "dataset is None"),
        ({"hardware": {}}, "hardware has no machine"),
        ({"score_last": "9"}, "score_last is '9'"),
        ({"score_last": 1e308}, "score_last is 1e+308"),
        ({"curve": "x"}, "curve is 'x'; it must be a list"),
        ({"curve": [[1, 2]]}, "curve[0] is [1, 2]; it must be a list of 3 entries"),
        ({"seed": [1]}, "seed is [1]"),
        ({"seed": True}, "seed is True"),
        ({"options": {"seeds": 3}}, "options.seeds is 3"),
        ({"config": [1]}, "config is [1]"),
        ({"train": {"loss": "x"}}, "train.loss is 'x'"),
        ({"note": 7}, "note is 7"),
        ({"format": "2"}, "of format '2'"),
    ],
)
def test_a_sealed_result_of_another_shape_is_refused_with_its_field(tmp_path, changes, said):
    result = {name: value for name, value in {**made()[0], **changes}.items() if value is not ...}
    write_json(tmp_path / "x.json", sealed(result))
    with pytest.raises(RunError) as caught:
        report(tmp_path)
    assert said in str(caught.value)
    assert f"{tmp_path / 'x.json'} cannot be read" in str(caught.value)


def test_no_advice_loses_a_file_that_is_none_of_ours(tmp_path):
    """Fails if a run's settings, or anybody's JSON, are to be removed because they carry no checksum."""
    files = {"run/config.json": "{}", "other/package.json": '{"name": "x"}', "deep/x.json": "[" * 50_000}
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir()
        path.write_text(text)
        with pytest.raises(RunError) as caught:
            report(path.parent)
        assert "remove" not in str(caught.value)
        assert len(str(caught.value)) < 600
    with pytest.raises(RunError, match=r"run is a run, not a folder of results; offline-rl results collect"):
        report(tmp_path / "run")
    with pytest.raises(RunError, match="holds runs, not result files; name the runs"):
        report(tmp_path)
    with pytest.raises(RunError, match="there is no folder"):
        report(tmp_path / "nothing")
