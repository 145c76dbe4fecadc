"""The sweep's cost against the number of examples and of ε values: linear, in constant memory.

Time: one objective on the CNN, 1,000 to 60,000 images at 4 values of ε (the digits repeat beyond
10,000), and 1 to 16 values of ε at 10,000 images. Memory: each case in a process of its own,
the most that it held beyond the images and what a sweep of one batch had left.
"""

import multiprocessing
import pathlib

from interleaved import CLOCKS, arguments, compare, limit, report, save
from subjects import subject

from hr_keras import evaluation

BATCH = 250
AT_MOST_OFF_LINE, AT_MOST_OF_IMAGES = 1.1, 0.1


def sweep(model, images, labels, count):
    epsilons = [0.01 * (k + 1) for k in range(count)]
    return evaluation.sweep(model, images, labels, ("ce",), epsilons, batch_size=BATCH)


def time(cases, repeats, clock):
    """Seconds of each (images, ε values), interleaved."""
    model, images, labels = subject("CNN", max(n for n, _ in cases))
    return compare(
        {
            case: lambda case=case: sweep(model, images[: case[0]], labels[: case[0]], case[1])
            for case in cases
        },
        repeats,
        clock,
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
    """Most MiB of one sweep beyond what one of a single batch left, and MiB of the images."""
    model, images, labels = subject("CNN", n)
    beyond = peak_beyond(
        lambda: sweep(model, images[:BATCH], labels[:BATCH], count),
        lambda: sweep(model, images, labels, count),
    )
    return beyond, images.nbytes / 2**20


def peak_beyond(warm_up, run):
    """Most MiB that this process holds in `run()`, beyond what it holds after `warm_up()`."""
    warm_up()  # compiles
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = _status("VmRSS")
    run()
    return (_status("VmHWM") - before) / 1024


def _status(key):
    """A number of KiB that Linux tells of this process."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(key)))


def memory(cases):
    """Rows: the peak of each case, in a process of its own; what it returns grows, no more."""
    rows, spawn = [], multiprocessing.get_context("spawn")
    for n, count in cases:
        with spawn.Pool(1) as pool:
            beyond, of_images = pool.apply(peak_memory, (n, count))
        name = f"{n} images, {count} ε"
        row = {"title": "memory", "name": name, "MiB of images": of_images, "MiB beyond": beyond}
        rows.append(row)
        print(f"{name}: {of_images:.1f} MiB of images, {beyond:.1f} MiB beyond")
    return rows


def memory_limit(near, far):
    """A row: what memory grows by between two cases, by the size of the images of the larger."""
    grown = (far["MiB beyond"] - near["MiB beyond"]) / far["MiB of images"]
    title = f"memory from {near['name']} to {far['name']}"
    return limit(title, "grown / images", grown, at_most=AT_MOST_OF_IMAGES)


def main():
    parser = arguments(__doc__, repeats=5)
    parser.add_argument("--images", type=int, nargs=3, default=(1_000, 10_000, 60_000))
    parser.add_argument("--epsilons", type=int, nargs=3, default=(1, 4, 16))
    given = parser.parse_args()
    by_images = [(n, given.epsilons[1]) for n in given.images]
    by_epsilons = [(given.images[1], count) for count in given.epsilons]
    cases = list(dict.fromkeys(by_images + by_epsilons))
    seconds = time(cases, given.repeats, CLOCKS[given.clock])
    rows = report(
        "sweep of the CNN", {f"{n} images, {count} ε": seconds[n, count] for n, count in cases}
    )
    for what, some, axis in (("images", by_images, 0), ("ε values", by_epsilons, 1)):
        slopes = line(seconds, some, lambda case, axis=axis: case[axis])
        title = f"cost of one more of the {what}"
        rows.append(limit(title, "far / near", slopes, at_most=AT_MOST_OFF_LINE))
    held = memory(cases)
    by_case = dict(zip(cases, held, strict=True))
    rows += held
    rows += [memory_limit(by_case[some[0]], by_case[some[-1]]) for some in (by_images, by_epsilons)]
    save(rows, given.output, given.clock)


if __name__ == "__main__":
    main()
