"""Start-up in new processes: `hr-keras --help`; `import hr_keras` against `import keras`."""

import os
import resource
import subprocess
import sys
import time

from interleaved import arguments, compare, limit, report, save

HELP_LIMIT, IMPORT_LIMIT = 0.5, 0.1  # seconds

# What the console script does.
HELP = "import sys; from hr_keras.cli import main; sys.argv = ['hr-keras', '--help']; main()"


def process(code):
    """Runs `code` in a new Python process."""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}

    def run():
        subprocess.run(
            [sys.executable, "-c", code], env=environment, check=True, capture_output=True
        )

    return run


def of_children():
    """Processor seconds of the processes that have ended."""
    return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def main():
    given = arguments(__doc__, repeats=21).parse_args()
    contestants = {
        "import keras": "import keras",
        "import hr_keras": "import hr_keras",
        "import hr_keras, keras": "import hr_keras, keras",
        "from hr_keras import HRLoss": "from hr_keras import HRLoss",
        "hr-keras --help": HELP,
        "python alone": "",
    }
    clock = time.perf_counter if given.clock == "wall" else of_children
    processes = {name: process(code) for name, code in contestants.items()}
    seconds = compare(processes, given.repeats, clock)
    rows = report("start-up", seconds)
    for name in list(contestants)[1:4]:
        more = [a - b for a, b in zip(seconds[name], seconds["import keras"], strict=True)]
        what = "seconds more than `import keras`"
        rows.append(limit(f"`{name}`", what, more, at_most=IMPORT_LIMIT))
    helped = seconds["hr-keras --help"]
    rows.append(limit("`hr-keras --help`", "seconds", helped, at_most=HELP_LIMIT))
    save(rows, given.output, given.clock)


if __name__ == "__main__":
    main()
