"""The strength of `standard` and of its four attacks, against the published code of AutoAttack.

Quite different classifiers of digits are attacked at a radius near the median distance to their
decision boundary, by the attacks here and by those that torchattacks ships (APGD, APGDT, FAB,
Square, with the numbers of steps of the paper: its own AutoAttack makes 10), from the same images,
all classified correctly. Compared is the accuracy left, and image by image who stands whom.
`standard` is all four attacks: an image stands where it withstands each of them. To hold: it leaves
at most 0.005 more than theirs, over all models and on each: of fewer than 200 images, not one.
"""

import time

import numpy as np
from interleaved import arguments, limit, save
from subjects import CLASSIFIERS, classifier

from hr_keras import evaluation
from hr_keras.attacks import FAB, _perturbation, standard

try:
    import torch
    import torchattacks
    from in_torch import InTorch
except ImportError as error:
    raise SystemExit(f"torchattacks does not run, and nothing else is published: {error}") from None

ATTACKS = ("APGD-CE", "APGD-T", "FAB-T", "Square")


def median_distance(model, images, labels, norm):
    """Of 40 images to the decision boundary, as FAB finds it; two digits."""
    images, labels = images[:40], labels[:40]
    nearest = FAB(0.0, n_iter=20, n_targets=3, norm=norm).closest(model, images, labels)
    return float(f"{np.median(_perturbation.get(norm).norm(nearest - images)):.2g}")


def published(net, norm, epsilon, seed):
    """The published attacks, as AutoAttack runs them."""
    shared = {"norm": {"linf": "Linf", "l2": "L2"}[norm], "eps": epsilon, "seed": seed}
    return (
        torchattacks.APGD(net, steps=100, loss="ce", **shared),
        torchattacks.APGDT(net, steps=100, n_classes=10, **shared),
        torchattacks.FAB(net, steps=100, multi_targeted=True, n_classes=10, **shared),
        torchattacks.Square(net, n_queries=5000, **shared),
    )


def left_by_published(attack, net, images, labels):
    """bool `(n,)`: who withstands it."""
    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    y = torch.from_numpy(labels.astype("int64"))
    adversarial = attack(x, y)
    with torch.no_grad():
        return (net(adversarial).argmax(dim=-1) == y).numpy()


def left_by_ours(attack, model, images, labels):
    """bool `(n,)`: who withstands it."""
    return evaluation.robust_accuracy(model, images, labels, attack).robust


def compare(name, norm, epsilon, seed, model, images, labels):
    """A row for each attack, and for all of them."""
    net = InTorch(model).eval()
    pairs = zip(
        standard(epsilon, norm, seed).attacks, published(net, norm, epsilon, seed), strict=True
    )
    title = f"{name}, {norm} {epsilon:g}"
    everywhere, rows = np.ones((2, len(images)), bool), []
    for attack, (ours, theirs) in zip(ATTACKS, pairs, strict=True):
        started = time.perf_counter()
        left = [left_by_ours(ours, model, images, labels)]
        between = time.perf_counter()
        left.append(left_by_published(theirs, net, images, labels))
        seconds = between - started, time.perf_counter() - between
        everywhere &= left
        rows.append(row(title, attack, seed, left, seconds))
    total = [sum(r[key] for r in rows) for key in ("seconds", "published seconds")]
    return [*rows, row(title, "standard", seed, everywhere, total)]


def row(title, attack, seed, left, seconds):
    """Printed and returned: accuracies left, and how many images stand against one side only."""
    ours, theirs = left
    found = {
        "title": title,
        "attack": attack,
        "images": len(ours),
        "seed": seed,
        "ours": float(ours.mean()),
        "published": float(theirs.mean()),
        "fooled by published only": int((ours & ~theirs).sum()),
        "fooled by ours only": int((theirs & ~ours).sum()),
        "seconds": seconds[0],
        "published seconds": seconds[1],
    }
    print(*(f"{v:.3f}" if isinstance(v, float) else v for v in found.values()), flush=True)
    return found


def at_most(found, differences):
    """The row of a limit: what `standard` leaves more than the published attacks, by seed."""
    title = found[0][-1]["title"]
    return limit(title, "standard: ours − published", differences, at_most=0.005)


def main():
    parser = arguments(__doc__, repeats=1)  # a repeat is another seed
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--resnet", type=int, default=200, help="images for the slow ResNet-8")
    parser.add_argument("--classifiers", nargs="+", choices=CLASSIFIERS, default=list(CLASSIFIERS))
    parser.add_argument("--norms", nargs="+", choices=("linf", "l2"), default=("linf", "l2"))
    given = parser.parse_args()
    torch.set_num_threads(1)  # beside TensorFlow's, two were ten times slower
    rows, limits, everywhere = [], [], []
    for name in given.classifiers:
        n = given.resnet if name.startswith("ResNet") else given.images
        model, images, labels = classifier(name, n)
        for norm in given.norms:
            epsilon = median_distance(model, images, labels, norm)
            found = [
                compare(name, norm, epsilon, seed, model, images, labels)
                for seed in range(given.repeats)
            ]
            # rounded: one image of 200 is 0.005
            more = [round(each[-1]["ours"] - each[-1]["published"], 6) for each in found]
            limits.append(at_most(found, more))
            everywhere += more
            rows += [row for each in found for row in each]
            save(limits + rows, given.output, given.clock)
    overall = limit(
        "all models", "standard: ours − published, mean", float(np.mean(everywhere)), at_most=0.005
    )
    save([overall, *limits, *rows], given.output, given.clock)


if __name__ == "__main__":
    main()
