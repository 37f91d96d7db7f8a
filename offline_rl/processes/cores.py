"""How much of a machine this process may use: what a batch system or a container has allotted to it."""

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def available_cores(root: Path = ROOT) -> int:
    """Return how many processes can compute at once here: the cores of the affinity mask, at most the CPU quota.

    Args:
        root: Where ``proc`` and ``sys`` are.

    Returns:
        At least 1; a part of a core counts as none.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *map(int, _quotas(root))]))


def available_memory(root: Path = ROOT) -> int | None:
    """Return how many bytes are free for this process, on the machine and within its groups; None if nobody says."""
    free = [*_machine_memory(root), *_group_memory(root)]
    return max(0, min(free)) if free else None


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPU quota, in cores, of each control group that this process is in."""
    for folder in _groups(root, ""):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if quota.isdigit() and period.strip().isdigit() and int(period):
            yield int(quota) / int(period)
    for folder in _groups(root, "cpu"):
        quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
        if quota.isdigit() and period.isdigit() and int(period):  # a quota of -1 is none
            yield int(quota) / int(period)


def _machine_memory(root: Path) -> Iterator[int]:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            yield 1024 * int(line.split()[1])


def _group_memory(root: Path) -> Iterator[int]:
    """Yield what each control group has left; pages that it would give up when they are needed count as free."""
    version_2 = ("", "memory.max", "memory.current", "inactive_file")
    version_1 = ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    for controller, limit_name, used_name, reclaimable in (version_2, version_1):
        for folder in _groups(root, controller):
            limit, used = (_read(folder / name).strip() for name in (limit_name, used_name))
            if limit.isdigit() and used.isdigit():
                facts = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
                yield int(limit) - int(used) + int(facts.get(reclaimable, 0))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control group and of those around it.

    Args:
        root: Where ``proc`` and ``sys`` are.
        controller: Of version 1, such as ``cpu``; empty for version 2, which has one tree for all.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(","):
            top = root / "sys/fs/cgroup" / controller
            place = top / path.strip("/")
            yield from (place, *(parent for parent in place.parents if parent.is_relative_to(top)))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
