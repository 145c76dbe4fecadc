"""The sweep's cost against the number of examples and of ε values: linear, in constant memory.

Time: one objective on the CNN, 1,000 to 60,000 images at 4 values of ε (the digits repeat beyond
10,000), and 1 to 16 values of ε at 10,000 images. Memory: each case in a process of its own,
the most that it held beyond what it held before, its images included.
"""

import multiprocessing
import pathlib

from interleaved import arguments, compare, limit, report, save
from subjects import subject

from hr_keras import evaluation

BATCH = 250
AT_MOST_OFF_LINE, AT_MOST_OF_MEMORY = 1.1, 1.1


def sweep(model, images, labels, count):
    epsilons = [0.01 * (k + 1) for k in range(count)]
    return evaluation.sweep(model, images, labels, ("ce",), epsilons, batch_size=BATCH)


def time(cases, repeats):
    """Seconds of each (images, ε values), interleaved."""
    model, images, labels = subject("CNN", max(n for n, _ in cases))
    return compare(
        {
            case: lambda case=case: sweep(model, images[: case[0]], labels[: case[0]], case[1])
            for case in cases
        },
        repeats,
    )


def line(seconds, cases, size):
    """Cost of one unit more at the far end of three cases, by that at the near end, pair by pair.

    1 is a straight line. A constant on top of it (one gradient serves every ε; a call has its
    fixed cost) makes the cost of the first unit larger, not this ratio.
    """
    (a, b, c), (near, middle, far) = cases, map(size, cases)
    slopes = zip(*(seconds[case] for case in (a, b, c)), strict=True)
    return [((z - y) / (far - middle)) / ((y - x) / (middle - near)) for x, y, z in slopes]


def peak_memory(n, count):
    """Most MiB that one sweep takes beyond the model and the images."""
    model, images, labels = subject("CNN", n)
    sweep(model, images[:BATCH], labels[:BATCH], count)  # compile
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = _status("VmRSS")
    sweep(model, images, labels, count)
    return (_status("VmHWM") - before) / 1024


def _status(key):
    """A number of KiB that Linux tells of this process."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(key)))


def memory(cases):
    """Rows: the peak of each case, in a process of its own."""
    rows, spawn = [], multiprocessing.get_context("spawn")
    for n, count in cases:
        with spawn.Pool(1) as pool:
            beyond = pool.apply(peak_memory, (n, count))
        name = f"{n} images, {count} ε"
        rows.append({"title": "memory beyond the images", "name": name, "MiB": beyond})
        print(f"{name}: {beyond:.1f} MiB beyond the images")
    return rows


def main():
    parser = arguments(__doc__, repeats=5)
    parser.add_argument("--images", type=int, nargs=3, default=(1_000, 10_000, 60_000))
    parser.add_argument("--epsilons", type=int, nargs=3, default=(1, 4, 16))
    given = parser.parse_args()
    by_images = [(n, given.epsilons[1]) for n in given.images]
    by_epsilons = [(given.images[1], count) for count in given.epsilons]
    cases = list(dict.fromkeys(by_images + by_epsilons))
    seconds = time(cases, given.repeats)
    rows = report(
        "sweep of the CNN", {f"{n} images, {count} ε": seconds[n, count] for n, count in cases}
    )
    for what, some, axis in (("images", by_images, 0), ("ε values", by_epsilons, 1)):
        slopes = line(seconds, some, lambda case, axis=axis: case[axis])
        title = f"cost of one more of the {what}"
        rows.append(limit(title, "far / near", slopes, at_most=AT_MOST_OFF_LINE))
    rows += memory(cases)
    save(rows, given.output)


if __name__ == "__main__":
    main()
