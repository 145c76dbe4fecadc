"""Where the time of `hr-keras table` (quick, one realization: two models) goes, stage by stage.

The command runs in a process of its own under `cProfile`, one model after the other, so that
every stage is seen; then once without a profile, as users run it. `--before FOLDER`: the same with
the package in another folder, such as a checkout of an earlier version, in turn.
"""

import os
import pathlib
import pstats
import statistics
import subprocess
import sys
import tempfile
import time

from interleaved import arguments, ratios, save

PROFILED = """
import cProfile, sys
profile = cProfile.Profile()
profile.enable()
try:
    from hr_keras.cli import main
    main()
finally:
    profile.disable()
    profile.dump_stats({path!r})
"""
PLAIN = "from hr_keras.cli import main; main()"

# A stage is what is spent in a function and in all that it calls; any of these, by version.
STAGES = {
    "imports": [("<frozen importlib._bootstrap>", "_find_and_load")],
    "data": [("hr_keras/datasets/__init__.py", "load")],
    "building models": [
        ("experiments/realization.py", "build"),
        ("experiments/fit.py", "build_model"),
    ],
    "fit": [("backend/tensorflow/trainer.py", "fit")],
    "fit: validation": [("backend/tensorflow/trainer.py", "evaluate")],
    "fit: attacks on the validation split": [("hr_keras/callbacks.py", "on_epoch_end")],
    "fit: checkpoints": [
        ("experiments/checkpoint.py", "on_epoch_end"),
        ("experiments/realization.py", "on_epoch_end"),
    ],
    "attack of the test split": [
        ("experiments/realization.py", "_attack"),
        ("experiments/measure.py", "measure_fgsm"),
    ],
    "confusion matrices and bounds": [
        ("experiments/measurements.py", "measure"),
        ("experiments/measure.py", "measure_confusions"),
        ("experiments/measure.py", "measure_all_error_terms"),
    ],
    "saving models": [("models/model.py", "save")],
    "tables and pictures": [
        ("hr_keras/outputs.py", "table"),
        ("results/accuracy_table.py", "write"),
    ],
    "in all: tracing for compiled code": [
        ("polymorphic_function/tracing_compilation.py", "trace_function")
    ],
}


def command(package, code, *arguments):
    """Seconds of the command with the package that lies in a folder."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(package)}
    with tempfile.TemporaryDirectory() as folder:
        table = ("table", "--realizations", "1", "--output", folder, *arguments)
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code, *table], env=environment, check=True,
                       capture_output=True, cwd=folder)  # fmt: skip
        return time.perf_counter() - started


def stages(package):
    """Seconds of each stage, a dict; where a version has no such stage, it is missing."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/profile"
        folder = package / "hr_keras" / "experiments"
        has_jobs = (folder / "jobs.py").exists() or (folder / "workers.py").exists()
        command(package, PROFILED.format(path=path), *(("--jobs", "1") if has_jobs else ()))
        stats = pstats.Stats(path)
    found = {}
    for stage, functions in STAGES.items():
        seconds = [
            times[3]
            for (file, _, name), times in stats.stats.items()
            if any(file.endswith(end) and name == function for end, function in functions)
        ]
        if seconds:
            found[stage] = sum(seconds)
    return {**found, "all of it, profiled": stats.total_tt}


def main():
    parser = arguments(__doc__, repeats=3, clock=False)
    parser.add_argument("--before", help="folder that holds an earlier hr_keras")
    parser.add_argument("--about-before", default="", help="what it does less, in words")
    given = parser.parse_args()
    packages = {"now": pathlib.Path(__file__).resolve().parent.parent}
    if given.before:
        packages = {"before": pathlib.Path(given.before).resolve()} | packages
    seconds = {}
    for _ in range(given.repeats):
        for name, package in packages.items():
            one = stages(package)
            one["the command, as users run it"] = command(package, PLAIN)
            for stage, value in one.items():
                seconds.setdefault(stage, {}).setdefault(name, []).append(value)
    rows, title = [], f"seconds of each stage, medians of {given.repeats}"
    if given.about_before:
        title += f"; before: {given.about_before}"
    for stage, by_package in seconds.items():
        row = {"title": title, "stage": stage}
        row |= {name: statistics.median(values) for name, values in by_package.items()}
        if len(by_package) == 2:
            row["now / before"] = statistics.median(ratios(by_package, "now", "before"))
        rows.append(row)
        print("  ".join(str(value) for key, value in row.items() if key != "title"), flush=True)
    save(rows, given.output)


if __name__ == "__main__":
    main()
