"""Time contestants in turn (A B A B …), so that a drifting machine slows all of them alike."""

import json
import os
import pathlib
import platform
import statistics
import time

import keras
import numpy as np
import tensorflow as tf


def compare(contestants, repeats, clock=time.perf_counter):
    """Seconds of each contestant, a list a name, after one warm-up each."""
    for contestant in contestants.values():
        contestant()
    seconds = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, contestant in contestants.items():
            started = clock()
            contestant()
            seconds[name].append(clock() - started)
    return seconds


def report(title, seconds):
    """Print median, minimum and maximum, and the ratio to the first contestant pair by pair."""
    first = next(iter(seconds))
    print(f"\n{title}")
    print(f"{'':32}{'median':>9}{'min':>9}{'max':>9}   ratio to {first} (median, min–max)")
    rows = []
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(values, seconds[first], strict=True)]
        row = {
            "title": title,
            "name": name,
            "seconds": values,
            "median": statistics.median(values),
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
        rows.append(row)
        print(
            f"{name:32}{row['median']:9.4f}{min(values):9.4f}{max(values):9.4f}   "
            f"{row['ratio']:.3f} ({row['ratio_min']:.3f}–{row['ratio_max']:.3f})"
        )
    return rows


def save(rows, path):
    """Write the rows as JSON, with what they were made on; nothing where `path` is None."""
    if path is None:
        return
    machine = {
        "processors": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
    }
    pathlib.Path(path).write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
