"""The cores a process may use, with CPU quotas of control groups in both versions."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from machine import cores
from machine.cores import available_cores, cpu_quotas

ROOT = Path(cores.__file__).parent.parent


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def quotas(root: Path, groups: str) -> list[float]:
    write(root / "membership", groups)
    return sorted(cpu_quotas(root, root / "membership"))


def test_version_2_counts_the_group_and_those_above_it(tmp_path):
    write(tmp_path / "cpu.max", "max 100000")
    write(tmp_path / "batch" / "cpu.max", "400000 100000")
    write(tmp_path / "batch" / "job" / "cpu.max", "150000 100000")
    assert quotas(tmp_path, "0::/batch/job") == [1.5, 4]
    assert quotas(tmp_path, "0::/batch") == [4]
    assert quotas(tmp_path, "0::/") == []


def test_version_2_in_a_container_that_sees_its_own_root(tmp_path):
    write(tmp_path / "cpu.max", "200000 100000")
    assert quotas(tmp_path, "0::/") == quotas(tmp_path, "0::/kubepods/of-the-host") == [2]


@pytest.mark.parametrize("folder", ["cpu,cpuacct", "cpu"])
def test_version_1(tmp_path, folder):
    write(tmp_path / folder / "cpu.cfs_quota_us", "-1")
    write(tmp_path / folder / "docker" / "cpu.cfs_quota_us", "300000")
    write(tmp_path / folder / "docker" / "cpu.cfs_period_us", "100000")
    groups = "9:name=systemd:/docker\n4:memory:/docker\n3:cpuset:/docker\n2:cpu,cpuacct:/docker\n0::/docker"
    assert quotas(tmp_path, groups) == [3]
    assert quotas(tmp_path, groups.replace("cpu,cpuacct:/docker", "cpu,cpuacct:/")) == []


def test_version_2_next_to_version_1(tmp_path):
    write(tmp_path / "unified" / "job" / "cpu.max", "250000 100000")
    assert quotas(tmp_path, "1:name=systemd:/\n0::/job") == [2.5]


def test_no_control_groups(tmp_path):
    assert not [*cpu_quotas(tmp_path, tmp_path / "nowhere")]
    assert quotas(tmp_path, "nonsense") == []


@pytest.mark.parametrize("quota, expected", [((), 8), ((2.0,), 2), ((2.5, 4.0), 2), ((0.5,), 1), ((64.0,), 8)])
def test_a_quota_lowers_the_number_of_cores(monkeypatch, quota, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "cpu_quotas", lambda: iter(quota))
    assert available_cores() == expected


def test_a_programs_openmp_threads_wait_briefly_unless_the_user_says_otherwise():
    """OpenMP itself says which setting it has read. It is loaded without torch, which takes seconds to import."""
    folders = importlib.util.find_spec("torch").submodule_search_locations
    library = next((path for folder in folders for path in Path(folder, "lib").glob("libgomp*")), None)
    if library is None:
        pytest.skip("torch was built with another OpenMP")
    code = (
        "import ctypes, os; from machine.interruption import begin_program; begin_program('x'); "
        f"ctypes.CDLL({str(library)!r})"
    )
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    for given, expected in [({}, cores.SPINS), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")]:
        environment = plain | {"OMP_DISPLAY_ENV": "VERBOSE"} | given
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert f"GOMP_SPINCOUNT = '{expected}'" in done.stderr
