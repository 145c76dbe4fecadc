"""The paper's sweep {ce, hr} × {0, 0.1, 0.25}: against its passes, and against other libraries.

The passes are 1 forward + 2 backward + 4 forward, each timed bare in the same run. That no more
are made is counted in `tests/test_evaluation.py`; this script times them.
"""

import peers
from attacks import same_pixels
from interleaved import CLOCKS, arguments, compare, limit, ratios, report, save
from subjects import subject

from hr_keras import evaluation
from hr_keras.attacks import FGSM

BATCH = 250  # divides the numbers of images: no contestant pads or compiles a second time
AT_MOST, AT_LEAST = 1.15, 2.5


def same_images(running, model, images, labels, epsilon=0.25):
    """Rows: how many adversarial pixels are the same as ours, with either objective.

    The accuracies could not tell: on a network that CE fools altogether, so does HR.
    """
    rows = []
    for objective in peers.OBJECTIVES:
        attack = FGSM(epsilon, objective, batch_size=BATCH)
        contestants = {"hr_keras": lambda attack=attack: attack(model, images, labels)}
        for name, peer in running.items():
            if objective == "ce" or not peer.ce_alone:
                contestants[name] = lambda peer=peer, objective=objective: peers.adversarial_images(
                    peer, images, labels, epsilon, BATCH, objective
                )
        rows += same_pixels(f"FGSM on {objective}, {model.name}", contestants)
    return rows


def same_cells(running, model, images, labels):
    """Rows: the accuracy of each cell, by each contestant, on one part of the images."""
    ours = evaluation.sweep(model, images, labels, batch_size=BATCH).accuracy
    found = {"hr_keras": ours}
    for name, peer in running.items():
        found[name] = peers.six_cells(peer, images, labels, BATCH)
    rows = []
    for name, cells in found.items():
        row = {"title": f"accuracy left, {model.name}", "name": name}
        row |= {f"{objective} {epsilon:g}": right for (objective, epsilon), right in cells.items()}
        print(", ".join(f"{key}: {value}" for key, value in row.items()))
        rows.append(row)
        if name in running and not running[name].ce_alone:
            check_close(name, cells, ours)
    return rows


def check_close(name, cells, ours):
    """Two images of a thousand may fall on another side of a rounding."""
    for cell, right in cells.items():
        if abs(right - ours[cell]) > 0.002:
            raise SystemExit(
                f"{name} does not make the same attacks: {cell}: {right}, {ours[cell]}"
            )


def measure(name, n, repeats, clock):
    model, images, labels = subject(name, n)
    running, rows = peers.start_all(
        model, images, labels, (*peers.LIBRARIES, peers.CleverHansTutorial)
    )
    some = images[: 2 * BATCH], labels[: 2 * BATCH]
    everyone = running | {"gradient shared by hand": peers.SharedByHand(model)}
    rows += same_images(running, model, *some) + same_cells(everyone, model, *some)
    contestants = {
        "hr_keras": lambda: evaluation.sweep(model, images, labels, batch_size=BATCH),
        "1 forward": peers.passes(model, images, labels, BATCH),
        "1 forward + 2 backward": peers.passes(model, images, labels, BATCH, ("ce", "hr")),
    }
    for peer_name, peer in everyone.items():
        contestants[peer_name] = lambda peer=peer: peers.six_cells(peer, images, labels, BATCH)
    seconds = compare(contestants, repeats, clock)
    once = zip(seconds["1 forward + 2 backward"], seconds["1 forward"], strict=True)
    seconds["pass budget"] = [backward + 4 * forward for backward, forward in once]
    title = f"six cells, {name}, {n} images"
    rows += report(title, seconds, {peer_name: everyone[peer_name].note for peer_name in everyone})
    of_budget = ratios(seconds, "hr_keras", "pass budget")
    rows.append(limit(title, "hr_keras / pass budget", of_budget, at_most=AT_MOST))
    for fastest in sorted(running, key=lambda peer_name: sum(seconds[peer_name]))[:1]:
        gain = ratios(seconds, fastest, "hr_keras")
        rows.append(limit(title, f"{fastest} / hr_keras", gain, at_least=AT_LEAST))
    return rows


def main():
    parser = arguments(__doc__, repeats=5)
    parser.add_argument("--images", type=int, nargs=2, default=(10_000, 2_000), help="CNN, ResNet")
    given = parser.parse_args()
    rows = []
    for name, n in zip(("CNN", "ResNet-8"), given.images, strict=True):
        rows += measure(name, n, given.repeats, CLOCKS[given.clock])
    save(rows, given.output, given.clock)


if __name__ == "__main__":
    main()
