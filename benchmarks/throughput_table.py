"""What :mod:`benchmarks.throughput` has measured, as a table and as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from offline_rl.analysis.figures import COLOURS, save

Line = dict[str, Any]


def table(result: Line) -> str:
    """Return a result as Markdown; those of a CPU have more to compare, those of a GPU more lines."""
    if "references" in result:
        return _reference_table(result)
    return _cpu_table(result) if "hardware" in result else _gpu_table(result)


def _reference_table(result: Line) -> str:
    """Return a line for each algorithm that other programs have, too: all rates, then how many times ours is theirs."""
    others = [*result["references"], *([result["competitor"]] if "competitor" in result else [])]
    rates = {other["name"]: {line["algorithm"]: line for line in other["measurements"]} for other in others}
    heads = [
        "algorithm",
        "ours, eager",
        "ours, compiled",
        *rates,
        *(f"times {name.rpartition(' ')[0]}" for name in rates),
    ]
    lines = [_caption(result), "", _row(heads), "|---" * len(heads) + "|"]
    for algorithm, ways in own_lines(result).items():
        theirs = [known.get(algorithm) for known in rates.values()]
        best = ways.get(("compile", result["kernel"]))
        times = [_times(best, line, 2) for line in theirs]
        mine = [_rate(ways.get((mode, result["kernel"]))) for mode in ("eager", "compile")]
        lines.append(_row([algorithm, *mine, *map(_rate, theirs), *times]))
    return "\n".join(lines)


def _gpu_table(result: Line) -> str:
    lines = [
        f"{result['device']}, PyTorch {result['versions']['torch']}, {result['date']}, {result['rows']:,} rows.",
        "",
        "| algorithm | mode | precision | members | updates/s | share of the roofline | memory, GB |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in result["measurements"]:
        head = f"| {line['algorithm']} | {line['mode']} | {line['precision']} | {line['members']} |"
        if "error" in line:
            lines.append(f"{head} failed: {line['error']} | | |")
            continue
        rate, share, memory = (line[name] for name in ("updates_per_second", "share_of_roofline", "memory_gigabytes"))
        lines.append(f"{head} {rate:,.0f} | {100 * share:.1f} % | {memory:.2f} |")
    return "\n".join(lines)


def _cpu_table(result: Line) -> str:
    """Return a line for each algorithm, a column for each way to compute it; then PRDC, then several seeds."""
    rivals, ways = _rivals(result), ways_of(result)
    heads = ["algorithm", "floor", *map(", ".join, ways), "share of the floor"]
    heads += [result["competitor"]["name"], "times as fast"] if rivals else []
    lines = [_caption(result), "", _row(heads), "|---" * len(heads) + "|"]
    for algorithm, own in own_lines(result).items():
        done = [line for line in own.values() if "error" not in line]
        cells = [_rate(own.get(way)) for way in ways]
        if done:
            best = max(done, key=lambda line: line["updates_per_second"])
            cells = [_number(best["roofline_updates_per_second"]), *cells, f"{100 * best['share_of_roofline']:.0f} %"]
            cells += _against(best, rivals.get(algorithm)) if rivals else []
        else:
            cells = ["-", *cells, "-", *["-"] * (2 if rivals else 0)]
        lines.append(_row([algorithm, *cells]))
    return "\n".join([*lines, *_prdc_lines(result), *_member_lines(result)])


def _caption(result: Line) -> str:
    """Return how a CPU was measured."""
    return (
        f"One agent, one core, updates/s with sampling; {result['hardware']}, PyTorch {result['versions']['torch']}, "
        f"{result['date']}, {result['rows']:,} rows of 17 + 6 entries, best of {result['windows']} windows; products "
        f"ran at {result['products_gflops']['1 float32']} GFLOP/s. {result['note']}"
    ).rstrip()


def ways_of(result: Line) -> list[tuple[str, str]]:
    """Return the modes and kernels with which single agents were measured on one core."""
    return list(dict.fromkeys(way for own in own_lines(result).values() for way in own))


def own_lines(result: Line) -> dict[str, dict[tuple[str, str], Line]]:
    """Return, for each algorithm, the lines of single agents on one core by mode and kernel."""
    found: dict[str, dict[tuple[str, str], Line]] = {}
    for line in result["measurements"]:
        on_its_data = line["data"] == "synthetic" or line["algorithm"] == "prdc"
        if line["members"] == line["cores"] == 1 and on_its_data:
            found.setdefault(line["algorithm"], {})[line["mode"], line["kernel"]] = line
    return found


def _prdc_lines(result: Line) -> list[str]:
    """Return PRDC's table: next to TD3+BC on the same data, and with a second core for its search."""
    recorded = [line for line in result["measurements"] if line["data"] != "synthetic" and "error" not in line]
    if not recorded:
        return []
    data = result["data"]
    lines = [
        "",
        f"PRDC is measured on {data['name']}, {data['rows']:,} rows of {' + '.join(map(str, data['sizes']))} entries, "
        f"after {data['warmup']:,} updates:",
        "",
        "| algorithm | mode, kernel | cores | updates/s | search, ms | found in lists |",
        "|---|---|---|---|---|---|",
    ]
    for line in recorded:
        search = [f"{line['search_ms']:.2f}", f"{100 * line['certified']:.1f} %"] if "search_ms" in line else ["", ""]
        lines.append(
            _row([line["algorithm"], f"{line['mode']}, {line['kernel']}", f"{line['cores']}", _rate(line), *search])
        )
    return lines


def _member_lines(result: Line) -> list[str]:
    """Return what several seeds with a process each make together, next to one."""
    lines = []
    for line in result["measurements"]:
        one = own_lines(result).get(line["algorithm"], {}).get((line["mode"], line["kernel"]))
        if line["members"] > 1 and one and "error" not in line and "error" not in one:
            times = line["updates_per_second"] / one["updates_per_second"]
            lines += [
                "",
                f"{line['members']} seeds of {line['algorithm']} ({line['mode']}, {line['kernel']}) on {line['cores']} "
                f"cores, a process each: {_rate(line)} updates/s together, {times:.2f} times those of one on one core.",
            ]
    return lines


def draw(result: Line, path: Path) -> None:
    """Draw a CPU's shares of the floor, a bar for each algorithm and way to compute it, as PNG or SVG."""
    # The object interface: it needs no display and leaves the caller's own figures alone.
    from matplotlib.figure import Figure

    found, ways = own_lines(result), ways_of(result)
    bars = [
        (f"{mode}, {kernel}", {name: own.get((mode, kernel), {}) for name, own in found.items()})
        for mode, kernel in ways
    ]
    rivals = _rivals(result)
    if rivals:
        bars.append((result["competitor"]["name"], {name: _as_share(rivals.get(name), found[name]) for name in found}))
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes, width = figure.add_subplot(), 0.8 / len(bars)
    for number, (label, lines) in enumerate(bars):
        heights = [100 * line.get("share_of_roofline", 0) for line in lines.values()]
        places = [place + (number - (len(bars) - 1) / 2) * width for place in range(len(found))]
        axes.bar(places, heights, width, color=COLOURS[number % len(COLOURS)], label=label)
    axes.set_xticks(range(len(found)), list(found))
    axes.set_ylabel("share of the floor, %")
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", frameon=False, fontsize=8, ncols=len(bars))
    save(figure, path)


def _as_share(rival: Line | None, own: dict[Any, Line]) -> Line:
    """Return a rival's line with its share of the same floor."""
    floor = max(line.get("roofline_updates_per_second", 0) for line in own.values())
    return {"share_of_roofline": rival["updates_per_second"] / floor} if rival and floor else {}


def _rivals(result: Line) -> dict[str, Line]:
    return {line["algorithm"]: line for line in result.get("competitor", {}).get("measurements", [])}


def _against(best: Line, rival: Line | None) -> list[str]:
    return ["-", "-"] if rival is None else [_rate(rival), _times(best, rival, 1)]


def _times(own: Line | None, other: Line | None, digits: int) -> str:
    """Return how many times as fast as another program ours is."""
    if own is None or other is None or "error" in own:
        return "-"
    return f"{own['updates_per_second'] / other['updates_per_second']:.{digits}f}"


def _rate(line: Line | None) -> str:
    if line is None:
        return "-"
    return "failed" if "error" in line else _number(line["updates_per_second"])


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
