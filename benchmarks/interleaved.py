"""Time contestants in turn (A B A B …), so that a drifting machine slows all of them alike."""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import time

import keras
import numpy as np
import tensorflow as tf

import hr_keras

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def compare(contestants, repeats, clock=time.perf_counter, warm_up=True):
    """Seconds of each contestant, a list a name, after one warm-up each."""
    for contestant in contestants.values() if warm_up else ():
        contestant()
    seconds = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, contestant in contestants.items():
            started = clock()
            contestant()
            seconds[name].append(clock() - started)
    return seconds


def report(title, seconds, notes=None):
    """Print median, minimum and maximum, and the ratio to the first contestant pair by pair.

    Returns rows for `save`; `notes` are what to say of a contestant beside its name.
    """
    first = next(iter(seconds))
    print(f"\n{title}")
    print(f"{'':32}{'median':>9}{'min':>9}{'max':>9}   ratio to {first} (median, min–max)")
    rows = []
    for name, values in seconds.items():
        to_first = ratios(seconds, name, first)
        row = {
            "title": title,
            "name": name,
            "seconds": values,
            "median": statistics.median(values),
            "ratio": statistics.median(to_first),
            "ratio_min": min(to_first),
            "ratio_max": max(to_first),
            "note": (notes or {}).get(name, ""),
        }
        rows.append(row)
        print(
            f"{name:32}{row['median']:9.4f}{min(values):9.4f}{max(values):9.4f}   "
            f"{row['ratio']:.3f} ({row['ratio_min']:.3f}–{row['ratio_max']:.3f})"
        )
    return rows


def arguments(description, repeats, clock=True):
    """Arguments that the scripts take, as an `argparse` parser; `clock`: whether `--clock` too."""
    check_package(pathlib.Path(hr_keras.__file__))
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--repeats", type=int, default=repeats)
    if clock:
        parser.add_argument("--clock", choices=CLOCKS, default="wall", help="what a second is")
    parser.add_argument("--output", help="JSON file")
    return parser


def check_package(path):
    """Ends the script where another copy of the package than that beside it would be measured."""
    root = pathlib.Path(__file__).resolve().parent.parent
    if path.resolve() != root / "hr_keras" / "__init__.py":
        raise SystemExit(
            f"The benchmarks measure the package in {root}: install it with `pip install -e`, or "
            f"set PYTHONPATH to it. Python found {path}."
        )


def ratios(seconds, name, to):
    """Seconds of one contestant by those of another, pair by pair."""
    return [a / b for a, b in zip(seconds[name], seconds[to], strict=True)]


def limit(title, quantity, measured, at_most=None, at_least=None):
    """Print and return a row: the median of a quantity, and whether it holds its limit.

    A quantity "a / b" is the seconds of `a` by those of `b`, pair by pair, where it names no unit.
    """
    values = measured if isinstance(measured, list) else [measured]
    middle = statistics.median(values)
    held = middle <= at_most if at_least is None else middle >= at_least
    bound = f"≤ {at_most:g}" if at_least is None else f"≥ {at_least:g}"
    span = f" ({min(values):.3f}–{max(values):.3f})" if len(values) > 1 else ""
    print(f"{'held  ' if held else 'MISSED'} {title}: {quantity} {middle:.3f}{span}, limit {bound}")
    return {
        "title": title,
        "quantity": quantity,
        "measured": middle,
        "min": min(values),
        "max": max(values),
        "limit": bound,
        "held": held,
        "repeats": len(values),
    }


def save(rows, path, clock="wall", threads=0):
    """Write the rows as JSON, with what they were made on; nothing where `path` is None."""
    if path is None:
        return
    machine = {
        "date": datetime.date.today().isoformat(),
        "processors": os.cpu_count(),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "hr_keras": hr_keras.__version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "clock": clock,
        "threads": threads,  # 0: as many as TensorFlow takes
    }
    pathlib.Path(path).write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


def _cpu():
    """What Linux calls the processor; empty elsewhere."""
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
