import re
import shutil
import statistics
from pathlib import Path

from PIL import Image

from benchmarks.algorithms import brief_table, ours, whole_table, write
from benchmarks.compile_table import cost_table
from benchmarks.throughput_table import table
from offline_rl.files import read_sealed
from offline_rl.tracking.record import read_rows

ROOT = Path(__file__).parent.parent
WRITTEN = ("README.md", "docs/algorithms.md", "offline_rl/analysis/speeds.json", "offline_rl/training/repaid.json")
README = (ROOT / "README.md").read_text()


def test_it_is_a_screen_and_a_half():
    assert len(re.findall(r"\S*\w\S*", README)) < 900


def test_it_has_the_two_commands_and_its_picture():
    assert "\nmake train " in README
    assert "\nmake test " in README
    (picture,) = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README)
    assert 10_000 < (ROOT / picture).stat().st_size < 700_000
    with Image.open(ROOT / picture) as film:
        assert film.n_frames > 50


def test_the_table_of_a_cpus_speed_is_the_committed_results():
    result = read_sealed(ROOT / "results" / "throughput" / "cpu.json")
    assert table(result) in (ROOT / "docs" / "speed.md").read_text()


def test_the_table_of_a_gpus_speed_is_the_committed_results():
    result = read_sealed(ROOT / "results" / "throughput" / "gpu.json")
    assert table(result) in (ROOT / "docs" / "speed.md").read_text()


def test_the_tables_of_other_programs_and_of_compiling_are_the_committed_results():
    page, results = (ROOT / "docs" / "speed.md").read_text(), ROOT / "results" / "throughput"
    assert all(table(read_sealed(results / f"references{name}.json")) in page for name in ("", "-avx2"))
    assert cost_table(read_sealed(results / "compiling.json"), read_sealed(results / "cpu.json")) in page


def test_every_algorithm_is_listed():
    assert f"\n{brief_table()}\n" in README
    assert f"\n{whole_table()}\n" in (ROOT / "docs" / "algorithms.md").read_text()
    assert all(f"| [`{name}`](docs/{name}.md) |" in README for name in ours())


def test_the_listed_speeds_are_the_committed_results(tmp_path):
    for file in WRITTEN:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    (tmp_path / "results").symlink_to(ROOT / "results")
    write(tmp_path)
    for file in WRITTEN:
        assert (tmp_path / file).read_text() == (ROOT / file).read_text()


def test_the_citation_is_bibtex():
    (block,) = re.findall(r"```bibtex\n(.*?)```", README, re.DOTALL)
    assert block.count("{") == block.count("}")
    assert block.startswith("@software{offline_rl")


def test_prdcs_page_says_what_the_records_say():
    page = (ROOT / "docs" / "prdc.md").read_text()
    rates, search = {}, 0.0
    for algorithm in ("prdc", "td3_bc"):
        rows = read_rows(ROOT / "results" / "runs" / f"{algorithm}-walker2d-medium-replay" / "metrics.jsonl")
        train = [row for row in rows if row["kind"] == "train"]
        first, last = train[0], train[-1]
        rates[algorithm] = (last["step"] - first["step"]) / (last["seconds"] - first["seconds"])
        if algorithm == "prdc":
            search = statistics.fmean(row["timing/search_ms"] for row in train[1:])
    assert f"PRDC made {rates['prdc']:.0f} updates/s and TD3+BC {rates['td3_bc']:.0f}" in page
    assert f"{search:.2f} ms" in page
    report = read_sealed(ROOT / "results" / "neighbors-walker2d-medium-replay.json")
    for policy, methods in report["policies"].items():
        ours, theirs = methods["lists + tree"], methods["scipy cKDTree"]
        times = f"| {policy} | {theirs['ms_per_batch']:.1f} | {ours['ms_per_batch']:.2f} | {ours['ratio']:.0f} |"
        assert times in page


def test_parls_page_says_what_a_round_cost():
    result = read_sealed(ROOT / "results" / "round-cost.json")
    page = (ROOT / "docs" / "parl.md").read_text()
    assert f"cost {result['ratio']} times the CPU seconds" in page
    assert f"{result['num_labels']} pairs of {result['segment_length']} steps" in page
