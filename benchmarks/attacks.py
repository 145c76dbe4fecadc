"""FGSM against a bare compiled loop and other libraries; `FGSMCallback` against its passes.

The callback is then watched over many epochs of `fit`: it must trace nothing after the first,
and hold no more memory at the end.
"""

import pathlib

import keras
import numpy as np
import peers
from interleaved import CLOCKS, arguments, compare, limit, ratios, report, save
from subjects import subject

from hr_keras.attacks import FGSM
from hr_keras.callbacks import FGSMCallback

BATCH, EPSILON = 256, 0.1
VALIDATION, VALIDATION_BATCH = 2000, 250
AT_MOST_OF_BARE, AT_MOST_OF_PASSES, AT_MOST_OF_MEMORY = 1 / 0.95, 1.05, 1.02


def fgsm(name, n, repeats, clock):
    """Rows: adversarial images from each contestant, compared pixel by pixel, then timed."""
    model, images, labels = subject(name, n)
    running, rows = peers.start_all(model, images, labels)
    running = {"bare loop": peers.Bare(model), **running}
    attack = FGSM(EPSILON, batch_size=BATCH)
    contestants = {"hr_keras": lambda: attack(model, images, labels)}
    for peer_name, peer in running.items():
        contestants[peer_name] = lambda peer=peer: peers.adversarial_images(
            peer, images, labels, EPSILON, BATCH
        )
    title = f"FGSM, {name}, {n} images, batches of {BATCH}"
    rows += same_pixels(title, contestants)
    seconds = compare(contestants, repeats, clock)
    rows += report(title, seconds, {peer_name: running[peer_name].note for peer_name in running})
    cost = ratios(seconds, "hr_keras", "bare loop")
    rows.append(limit(title, "hr_keras / bare loop", cost, at_most=AT_MOST_OF_BARE))
    return rows


def same_pixels(title, contestants):
    """Rows: how many pixels are the same as ours."""
    ours, rows = contestants["hr_keras"](), []
    for name, contestant in contestants.items():
        # One rounding apart is equal: x + ε and x − (−ε) need not be the same float.
        differ = int((~np.isclose(contestant(), ours, rtol=0, atol=1e-6)).sum())
        row = {"name": name, "pixels": ours.size, "differ": differ}
        rows.append({"title": f"{title}: same images", **row})
        print(f"{title}: {name} differs in {differ} of {ours.size} pixels")
        if differ > 1e-4 * ours.size:
            raise SystemExit(f"{name} does not make the same adversarial images.")
    return rows


def callback(name, repeats, clock):
    """Rows: what the callback takes at the end of an epoch, and its bare passes."""
    model, images, labels = subject(name, VALIDATION)
    attacking = FGSMCallback((images, labels), every=1, batch_size=VALIDATION_BATCH)
    attacking.set_model(model)
    attacking.set_params({"epochs": 1})
    attacking.on_train_begin()
    contestants = {
        "FGSMCallback": lambda: attacking.on_epoch_end(0, {}),
        "1 forward": peers.passes(model, images, labels, VALIDATION_BATCH),
        "1 forward + 1 backward": peers.passes(model, images, labels, VALIDATION_BATCH, ("ce",)),
    }
    seconds = compare(contestants, repeats, clock)
    once = zip(seconds["1 forward + 1 backward"], seconds["1 forward"], strict=True)
    seconds["its passes"] = [backward + 2 * forward for backward, forward in once]
    title = f"FGSMCallback, {name}, {VALIDATION} validation images, ε 0.1 and 0.25"
    rows = report(title, seconds)
    cost = ratios(seconds, "FGSMCallback", "its passes")
    return [*rows, limit(title, "FGSMCallback / its passes", cost, at_most=AT_MOST_OF_PASSES)]


class Watch(keras.callbacks.Callback):
    """After every epoch: resident bytes, and how often Python has walked through the model."""

    def on_train_begin(self, logs=None):
        self.calls, self.bytes, self._count = [], [], 0
        call = self.model.call

        def counted(*args, **kwargs):
            self._count += 1
            return call(*args, **kwargs)

        self.model.call = counted

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(self._count)
        self.bytes.append(resident())


def many_epochs(epochs):
    """Rows: calls of the model and memory, after the first tenth and at the end of `fit`.

    Compiled code runs without Python: a call of the model from Python after the first
    epoch would be a second trace, or an eager pass.
    """
    model, images, labels = subject("CNN", VALIDATION)
    attacking = FGSMCallback((images, labels), every=1, batch_size=VALIDATION_BATCH)
    watch = Watch()
    model.fit(
        *(images[:200], labels[:200]),
        batch_size=100,
        epochs=epochs,
        callbacks=[attacking, watch],
        verbose=0,
    )
    if not watch.calls[0]:
        raise SystemExit("The calls of the model were not seen.")
    title = f"fit with FGSMCallback every epoch, {epochs} epochs"
    later = watch.calls[-1] - watch.calls[0]
    early = watch.bytes[max(1, epochs // 10) - 1]
    print(f"{title}: MiB {[round(size / 2**20) for size in watch.bytes[:: max(1, epochs // 10)]]}")
    return [
        limit(title, "traces after the first epoch", later, at_most=0),
        limit(
            title,
            "bytes at the end / after a tenth",
            watch.bytes[-1] / early,
            at_most=AT_MOST_OF_MEMORY,
        ),
    ]


def resident():
    """Bytes of memory that this process holds now, as Linux tells."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmRSS")))


def main():
    parser = arguments(__doc__, repeats=7)
    # multiples of 256, of which no contestant has to pad the last batch
    parser.add_argument("--images", type=int, nargs=2, default=(9984, 2048), help="CNN, ResNet")
    parser.add_argument("--epochs", type=int, default=100)
    given = parser.parse_args()
    rows = many_epochs(given.epochs)
    for name, n in zip(("CNN", "ResNet-8"), given.images, strict=True):
        rows += fgsm(name, n, given.repeats, CLOCKS[given.clock])
        rows += callback(name, given.repeats, CLOCKS[given.clock])
    save(rows, given.output, given.clock)


if __name__ == "__main__":
    main()
