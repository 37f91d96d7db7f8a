"""What a process may use of its machine, in groups laid out as the kernel does."""

import os

import pytest

from offline_rl.processes.cores import available_cores, available_memory

OWN = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def lay_out(root, files):
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


V2 = "0::/job/step\n"
V1 = "5:cpuset:/\n4:cpu,cpuacct:/job\n3:memory:/job\n"


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, OWN),
        ({"proc/self/cgroup": V2}, OWN),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/job/step/cpu.max": "100000 100000\n"}, 1),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/job/step/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/job/cpu.max": "150000 100000\n"}, 1),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/job/step/cpu.max": "max 100000\n"}, OWN),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/job/step/cpu.max": "6400000 100000\n"}, OWN),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/job/step/cpu.max": "rubbish\n"}, OWN),
        ({"proc/self/cgroup": V2, "sys/fs/cgroup/job/step/cpu.max": "100000 0\n"}, OWN),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
            },
            1,
        ),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            OWN,
        ),
    ],
)
def test_cores_are_those_of_the_mask_and_at_most_the_quota(tmp_path, files, cores):
    assert available_cores(lay_out(tmp_path, files)) == cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or OWN < 2, reason="needs two cores")
def test_cores_are_counted_by_the_mask_of_the_process():
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(own)})
    try:
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, own)


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, None),
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 8 kB\n"}, 8192),
        (
            {
                "proc/meminfo": "MemAvailable: 8 kB\n",
                "proc/self/cgroup": V2,
                "sys/fs/cgroup/job/memory.max": "5000\n",
                "sys/fs/cgroup/job/memory.current": "4500\n",
                "sys/fs/cgroup/job/memory.stat": "anon 7\ninactive_file 300\n",
            },
            800,
        ),
        (
            {
                "proc/meminfo": "MemAvailable: 8 kB\n",
                "proc/self/cgroup": V2,
                "sys/fs/cgroup/job/memory.max": "max\n",
                "sys/fs/cgroup/job/memory.current": "4500\n",
            },
            8192,
        ),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "5000\n",
                "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "6000\n",
            },
            0,
        ),
    ],
)
def test_memory_is_what_the_machine_and_the_groups_have_left(tmp_path, files, free):
    assert available_memory(lay_out(tmp_path, files)) == free
