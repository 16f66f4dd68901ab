"""Screening on a machine that other programs use as well."""

import statistics

from machine.cores import available_cores

from .contestants import Series
from .report import Measurement, compare
from .screening import CONVERTED, OURS
from .setting import Setting, race


def measure_shared(setting: Setting) -> list[Measurement]:
    """10. The TTA pair while other programs of one thread each compute, one per core.

    CPU time that is longer than with idle cores was mostly spent waiting for a thread that did not run.
    """
    jobs = available_cores()
    contestants = setting.ways("reference", *OURS, *CONVERTED)
    results = race("network", contestants, range(setting.turns), busy=jobs)
    notes = {
        name: f"{1000 * statistics.median(series.cpu_seconds):.0f} ms of CPU time"
        for name, series in results.items()
        if isinstance(series, Series)
    }
    return compare(f"10. TTA pair while {jobs} other programs compute", results, {}, notes)
