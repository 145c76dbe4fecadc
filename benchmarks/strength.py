"""The strength of `standard` and of its four attacks, against AutoAttack's in torchattacks' port.

Quite different classifiers of digits are attacked at a radius near the median distance to their
decision boundary, by the attacks here and by those that torchattacks ships (APGD, APGDT, FAB and
Square, with the steps and the schedule of the published package's `standard`: torchattacks' own
AutoAttack makes 10 steps), from the same images, all classified correctly. Compared is the accuracy
left, and image by image who withstands whom. `standard` is all four attacks: an image withstands it
that withstands each of them. To hold: it leaves at most 0.005 more than theirs, over all models and
on each: of fewer than 200 images, not one.

Each side works in a process of its own, with as many threads as the other. Ours compiles before its
seconds are counted.
"""

import pathlib
import tempfile

import numpy as np
from interleaved import arguments, limit, save
from sides import Side, start_all
from subjects import CLASSIFIERS, classifier, load_subject, save_subject

from hr_keras import evaluation
from hr_keras.attacks import FAB, _perturbation, standard

ATTACKS = ("APGD-CE", "APGD-T", "FAB-T", "Square")


def median_distance(model, images, labels, norm):
    """Of 40 images to the decision boundary, as FAB finds it; two digits."""
    images, labels = images[:40], labels[:40]
    nearest = FAB(0.0, n_iter=20, n_targets=3, norm=norm).closest(model, images, labels)
    return float(f"{np.median(_perturbation.get(norm).norm(nearest - images)):.2g}")


def make_ours(folder):
    """bool `(n,)`: which images withstand an attack."""
    model, images, labels = load_subject(folder)

    def left(attack, norm, epsilon, seed):
        one = standard(epsilon, norm, seed).attacks[ATTACKS.index(attack)]
        return evaluation.robust_accuracy(model, images, labels, one).robust

    return left


def make_torchattacks(folder):
    """The same by torchattacks, on the same weights."""
    import torch
    import torchattacks
    from in_torch import InTorch

    model, images, labels = load_subject(folder)
    net = InTorch(model).eval()
    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    y = torch.from_numpy(labels.astype("int64"))

    def make(attack, **shared):
        if attack == "APGD-CE":
            return torchattacks.APGD(net, steps=100, loss="ce", **shared)
        if attack == "APGD-T":
            return torchattacks.APGDT(net, steps=100, n_classes=10, **shared)
        if attack == "FAB-T":
            return torchattacks.FAB(net, steps=100, multi_targeted=True, n_classes=10, **shared)
        # AutoAttack does not stretch the schedule of 10,000 queries
        return torchattacks.Square(net, n_queries=5000, resc_schedule=False, **shared)

    def left(attack, norm, epsilon, seed):
        name = {"linf": "Linf", "l2": "L2"}[norm]
        adversarial = make(attack, norm=name, eps=epsilon, seed=seed)(x, y)
        with torch.no_grad():
            return (net(adversarial).argmax(dim=-1) == y).numpy()

    return left


def compare(title, pair, norm, epsilon, seed, clock):
    """A row for each attack, and for all of them."""
    everywhere, rows = True, []
    for attack in ATTACKS:
        found = [side(attack, norm, epsilon, seed) for side in pair]
        left = np.array([who for who, _ in found])
        everywhere = everywhere & left
        rows.append(row(title, attack, seed, left, [seconds[clock] for _, seconds in found]))
    total = [sum(r[key] for r in rows) for key in ("seconds", "torchattacks seconds")]
    return [*rows, row(title, "standard", seed, everywhere, total)]


def row(title, attack, seed, left, seconds):
    """Printed and returned: accuracies left, and how many images withstand one side only."""
    ours, theirs = left
    found = {
        "title": title,
        "attack": attack,
        "images": len(ours),
        "seed": seed,
        "left by hr_keras": float(ours.mean()),
        "left by torchattacks": float(theirs.mean()),
        "fooled by torchattacks only": int((ours & ~theirs).sum()),
        "fooled by hr_keras only": int((theirs & ~ours).sum()),
        "seconds": seconds[0],
        "torchattacks seconds": seconds[1],
    }
    print(*(f"{v:.3f}" if isinstance(v, float) else v for v in found.values()), flush=True)
    return found


def measure(name, n, given):
    """Rows of a classifier, and of `standard` how much more it leaves, by norm and seed."""
    model, images, labels = classifier(name, n)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        save_subject(folder, model, images, labels)
        ours = Side(make_ours, folder, threads=given.threads)
        makers = {"torchattacks": make_torchattacks}
        running, rows = start_all(makers, folder, threads=given.threads)
        more = []
        for norm in given.norms if running else ():
            epsilon = median_distance(model, images, labels, norm)
            title = f"{name}, {norm} {epsilon:g}"
            for attack in ATTACKS:
                ours(attack, norm, 10.0, 0)  # fools at once, and compiles
            found = [
                compare(title, (ours, *running.values()), norm, epsilon, seed, given.clock)
                for seed in range(given.repeats)
            ]
            # rounded: one image of 200 is 0.005
            here = [
                round(each[-1]["left by hr_keras"] - each[-1]["left by torchattacks"], 6)
                for each in found
            ]
            rows += [r for each in found for r in each]
            rows.append(limit(title, "standard: left by hr_keras − left by torchattacks", here,
                              at_most=0.005))  # fmt: skip
            more += here
        for side in (ours, *running.values()):
            side.close()
    return rows, more


def main():
    parser = arguments(__doc__, repeats=1)  # a repeat is another seed
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--resnet", type=int, default=50, help="images for the slow ResNet-8")
    parser.add_argument("--classifiers", nargs="+", choices=CLASSIFIERS, default=list(CLASSIFIERS))
    parser.add_argument("--norms", nargs="+", choices=("linf", "l2"), default=("linf", "l2"))
    parser.add_argument("--threads", type=int, default=1, help="of each side")
    given = parser.parse_args()
    rows, everywhere = [], []
    for name in given.classifiers:
        found, more = measure(
            name, given.resnet if name.startswith("ResNet") else given.images, given
        )
        rows += found
        everywhere += more
        save(rows, given.output, given.clock, given.threads)
    if everywhere:
        what = "standard: left by hr_keras − left by torchattacks, mean"
        rows.append(limit("all models", what, float(np.mean(everywhere)), at_most=0.005))
    save(rows, given.output, given.clock, given.threads)


if __name__ == "__main__":
    main()
