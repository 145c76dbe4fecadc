"""Writes README.md and pages of docs/ from docs/templates: every number is of saved results.

`python docs/render.py` writes the pages, `--check` only compares them.
"""

import functools
import pathlib
import re
import sys

import jinja2

from hr_keras._core.rendering import (
    ROUTE_LABELS,
    format_difference,
    format_estimate,
    format_interval,
    format_share,
)
from hr_keras.experiments.results import (
    accuracy_table,
    alpha_search,
    comparison,
    confusion,
    convergence,
)
from hr_keras.experiments.results.tables import describe_protocol, label_method
from hr_keras.experiments.run_folder import RunFolder
from hr_keras.experiments.statistics import judge_difference

ROOT = pathlib.Path(__file__).parent.parent
PAGES = {
    "README.md": ROOT / "README.md",
    "reproduction.md": ROOT / "docs" / "reproduction.md",
    "reading_the_numbers.md": ROOT / "docs" / "reading_the_numbers.md",
    "is_it_the_loss.md": ROOT / "docs" / "is_it_the_loss.md",
    "adversarial_training.md": ROOT / "docs" / "adversarial_training.md",
}
FOLDERS = {
    "mnist": "results/mnist/paper",
    "cifar10": "results/cifar10/paper",
    "quick": "results/mnist10k/quick",
    "alpha": "results/mnist10k/alpha",
    "methods": "results/mnist10k/methods",
    "rates": "results/mnist10k/learning_rates",
    "step": "results/mnist10k/step",
    "noise": "results/mnist10k/label_noise",
    "noise_same_rate": "results/mnist10k/label_noise_same_rate",
    "fashion_rates": "results/fashion_mnist/learning_rates",
    "fashion": "results/fashion_mnist/methods",
}
NOT_MEASURED = "not measured yet"
ADVERSARIAL = {
    "10,000 digits of MNIST, ε = 0.3": "results/mnist10k/adversarial/epsilon-0.3",
    "10,000 digits of MNIST, ε = 0.1": "results/mnist10k/adversarial/epsilon-0.1",
    "All of MNIST, ε = 0.3": "results/mnist/adversarial",
    "CIFAR-10, JPEG-recompressed, ResNet-8, ε = 8/255": "results/cifar10/adversarial",
}
# `results/train_on_gpu.py` trained so many epochs of the first realizations and of the others.
GPU_EPOCHS = {"mnist": (934, 991), "cifar10": (133, 200)}


@functools.cache
def find_rows(table, folder):
    """`table`, such as `accuracy_table.rows`, of a run folder; pages ask for it cell by cell."""
    return table(RunFolder(ROOT / folder))


def _find(frame, attack, through, epsilon, examples):
    chosen = frame[
        (frame["attack"] == attack) & (frame["through"] == through) & (frame["epsilon"] == epsilon)
    ]
    chosen = chosen[chosen["examples"] == (examples or chosen["examples"].max())]
    return chosen.set_index("method")


def find_accuracies(folder, attack, through, epsilon, examples=None):
    found = find_rows(accuracy_table.rows, folder)
    return _find(found, attack, through, epsilon, examples)


@functools.cache
def find_differences(folder, baseline=None):
    """Differences to a method, by default the first of the folder."""
    return accuracy_table.differences(RunFolder(ROOT / folder), baseline)


def find_difference(folder, attack, through, epsilon, examples=None):
    found = find_differences(folder)
    return _find(found, attack, through, epsilon, examples).loc["hr"]


def row(label, folder, attack, through, epsilon, examples=None):
    """A line of a table: accuracies trained with CE and with HR, and their difference."""
    found = find_accuracies(folder, attack, through, epsilon, examples)
    cells = [
        format_estimate(found["mean"][method], found["standard_error"][method])
        for method in ("ce", "hr")
    ]
    return f"| {label} | {' | '.join(cells)} | {difference(folder, attack, through, epsilon)} |"


def difference(folder, attack, through, epsilon, examples=None):
    """HR − CE with its interval."""
    return interval(find_difference(folder, attack, through, epsilon, examples))


def is_flat(one):
    """Whether all pairs differ by the same: the interval has no width, which says nothing."""
    return one["high"] - one["low"] < 1e-9


def count_pairs(number):
    return "both pairs" if number == 2 else f"all {number} pairs"


def interval(one, form=format_difference):
    """A difference with its interval, or with the number of pairs that all differ by it."""
    if is_flat(one):
        return f"{form(one['mean'])} ({count_pairs(one['realizations'])})"
    return format_interval(one["mean"], one["low"], one["high"], form)


def judge(one, words, form=format_difference):
    """One of `words`, for a difference above and below 0, or "undecided"; and the difference."""
    if one["realizations"] == 1:
        return f"one pair: {form(one['mean'])}"
    if is_flat(one):
        pairs = count_pairs(one["realizations"])
        return f"undecided: {pairs} differ by {form(one['mean'])}"
    word = dict(zip(("yes", "no"), words, strict=True)).get(
        judge_difference(one["low"], one["high"]), "undecided"
    )
    return f"{word}: {interval(one, form)}"


def estimate(folder, method, attack, through, epsilon):
    """An accuracy with its standard error."""
    found = find_accuracies(folder, attack, through, epsilon).loc[method]
    return format_estimate(found["mean"], found["standard_error"])


def verdict(folder, attack, through, epsilon, examples=None):
    """Whether HR is better, and the difference."""
    return judge(find_difference(folder, attack, through, epsilon, examples), ("yes", "no"))


def standard_examples(folder):
    """How many test images `standard` attacked."""
    found = find_rows(accuracy_table.rows, folder)
    return f"{found[found['attack'] == 'standard']['examples'].max():,}"


def chosen_alpha(folder):
    """The α that the search chooses, and accuracies of it and of the paper's: clean, exact."""
    if not is_measured(folder, "alpha.md"):
        return NOT_MEASURED
    found = alpha_search.rows([RunFolder(path) for path in RunFolder.find_in(ROOT / folder)])
    lines = [found[found["chosen"]].iloc[0], found[found["alpha"] == 1.6].iloc[0]]
    texts = [
        f"{format_estimate(one['clean'], one['clean_error'])} clean, "
        f"{format_estimate(one['exact'], one['exact_error'])} at ε = 0.1"
        for one in lines
    ]
    return f"α = {lines[0]['alpha']:g} is chosen ({texts[0]}); 1.6: {texts[1]}"


def zero_share(folder, method, epsilon):
    """Share of exactly zero gradients of FGSM with CE as published."""
    found = find_accuracies(folder, "fgsm_ce", "probabilities", epsilon)
    return f"{found['zero_gradient_share'][method]:.0%}".replace("%", " %")


def faster(folder, highest=None):
    """Epochs to the usual accuracies, or the highest of them, and whether HR needs fewer."""
    form, texts = (lambda epochs: f"{epochs:+.1f}".replace("-", "−")), []
    for accuracy, found in find_rows(convergence.rows, folder).groupby("accuracy"):
        found = found.set_index("method")
        names = {"mean": "difference", "low": "low", "high": "high", "realizations": "pairs"}
        one = {name: found.loc["hr", column] for name, column in names.items()}
        hr, ce = (f"{found['epochs'][method]:.1f}" for method in ("hr", "ce"))
        verdict = judge(one, ("slower", "faster"), form)
        texts.append(f"{format_share(accuracy)}: HR {hr}, CE {ce} ({verdict})")
    return "; ".join(texts[-highest:] if highest else texts)


def cost_of_attack(network):
    """What attacks in every tenth epoch add to training, as `benchmarks/RESULTS.md` has it."""
    text = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    found = re.search(rf"^\| {network}, .* \| with an attack / without \| ([\d.]+)", text, re.M)
    return f"{100 * (float(found[1]) - 1):.1f} %" if found else NOT_MEASURED


def norm(folder, method, through):
    """‖I − C‖ under FGSM with CE at ε = 0.1."""
    found = find_rows(confusion.rows, folder).set_index(["method", "through"])
    return format_estimate(*found.loc[(method, through), ["mean", "standard_error"]])


def robustness(folder):
    """Tables of a folder of adversarial training: its methods, and HR − CE inside each of them."""
    inside = find_inside(folder)
    if not inside:
        return "Not measured yet."
    protocol = RunFolder(ROOT / folder).protocol
    clean, attacked = (find_accuracies(folder, *where) for where in _find_columns(protocol))
    examples = attacked["examples"].iloc[0]
    lines = [describe_protocol(protocol), "",
             f"| trained with | clean images | under `standard`, {examples} images |",
             "|---|---|---|"]  # fmt: skip
    for method in attacked.index:
        cells = [
            format_estimate(found["mean"][method], found["standard_error"][method])
            for found in (clean, attacked)
        ]
        lines.append(f"| {label_method(method)} | {' | '.join(cells)} |")
    lines += ["", "| inside | HR − CE, clean images | HR − CE under `standard` | HR is |",
              "|---|---|---|---|"]  # fmt: skip
    for inner, *pair in inside:
        cells = [interval(one) for one in pair]
        word = {"yes": "better", "no": "worse"}.get(pair[1]["better"], "undecided")
        lines.append(f"| {label_method(inner)} | {' | '.join(cells)} | {word} |")
    return "\n".join(lines)


def _find_columns(protocol):
    """No attack, and `standard` at the ε of the training."""
    return ("none", "none", 0.0), ("standard", "logits", protocol.train_epsilon)


def find_inside(folder):
    """Each training of a folder that has a twin with HR, and HR − CE: clean, under `standard`."""
    if not RunFolder.is_run_folder(ROOT / folder):
        return []
    protocol = RunFolder(ROOT / folder).protocol
    columns = _find_columns(protocol)
    if find_accuracies(folder, *columns[1]).empty:
        return []
    twins = {name: "hr" if name == "ce" else f"{name}_hr" for name in protocol.methods}
    return [
        (name, *(_find(find_differences(folder, name), *column, None).loc[twin]
                 for column in columns))
        for name, twin in twins.items()
        if twin in protocol.methods
    ]  # fmt: skip


def describe_inside(folder):
    """HR − CE under `standard` inside each training of a folder, and what the interval says."""
    texts = [
        f"{'ordinary training' if name == 'ce' else label_method(name)} "
        f"{judge(attacked, ('better', 'worse'))}"
        for name, _, attacked in find_inside(folder)
    ]
    return "; ".join(texts) or NOT_MEASURED


def count_inside(column):
    """In how many adversarial trainings HR is better, worse, undecided: 1 clean, 2 attacked."""
    pairs = [one for folder in ADVERSARIAL.values() for one in find_inside(folder)]
    better = [one[column]["better"] for one in pairs if one[0] != "ce"]
    yes, no, undecided = map(better.count, ("yes", "no", "undecided"))
    return f"better in {yes} of {len(better)}, worse in {no}, undecided in {undecided}"


def single_step_gaps(folder):
    """Of FGSM-RS after the last epoch, on validation images: lowest and highest realization."""
    if not RunFolder.is_run_folder(ROOT / folder):
        return NOT_MEASURED
    run = RunFolder(ROOT / folder)
    gaps = [
        run.read_result("fgsm_rs", k).history["val_single_step_gap"][-1]
        for k in range(run.protocol.realizations)
    ]
    return f"{format_share(min(gaps))} to {format_share(max(gaps))}"


def include(folder, name):
    """A page of a run folder, its headings three levels deeper."""
    if not is_measured(folder, name):
        return f"{folder}: {NOT_MEASURED}."
    text = (ROOT / folder / name).read_text().strip()
    return re.sub(r"^#", "####", text, flags=re.MULTILINE)


def is_measured(folder, name="table.md"):
    """Whether a command has written its page: then the models of the folder are complete."""
    return (ROOT / folder / name).exists()


def picture(folder, name, title):
    """A picture of a run folder."""
    if not is_measured(folder, name):
        return f"{folder}/{name}: {NOT_MEASURED}."
    return f"![{title}](../{folder}/{name})"


def sort_methods(folder, attack, through, epsilon):
    """Which methods are above CE, which below, and which of neither can be said."""
    if not is_measured(folder):
        return NOT_MEASURED
    found = _find(find_differences(folder), attack, through, epsilon, None)
    texts = []
    for word, words in (("yes", "above"), ("no", "below"), ("undecided", "undecided")):
        names = [label_method(name) for name in found.index[found["better"] == word]]
        texts.append(f"{words}: {', '.join(names) or 'none'}")
    return "; ".join(texts)


def compare_to_ce(folder, method, attack, through, epsilon):
    """Accuracy of a method − accuracy of CE, with its interval and what it says."""
    return compare(folder, method, "ce", attack, through, epsilon)


def compare(folder, method, baseline, attack, through, epsilon):
    """Accuracy of a method − accuracy of another, with its interval and what it says."""
    if not is_measured(folder) or method not in RunFolder(ROOT / folder).protocol.methods:
        return NOT_MEASURED
    found = find_differences(folder, baseline)
    return judge(_find(found, attack, through, epsilon, None).loc[method], ("better", "worse"))


def gradient_ratio(folder, with_interval=True):
    """How many times longer the gradient of HR is than that of CE while CE trains."""
    if not is_measured(folder, "comparison.md"):
        return NOT_MEASURED
    found = find_rows(comparison.gradient_rows, folder).set_index(["method", "epochs"])
    if ("ce", "all") not in found.index:
        return NOT_MEASURED
    one = found.loc[("ce", "all")]
    if not with_interval:
        return f"{one['ratio']:.2f}"
    return format_interval(one["ratio"], one["low"], one["high"], "{:.2f}".format)


def describe_models(folder):
    """The protocol of a folder and how many realizations it has."""
    if not is_measured(folder):
        return f"{folder}: {NOT_MEASURED}."
    protocol = RunFolder(ROOT / folder).protocol
    return f"`{folder}`: {describe_protocol(protocol)} {protocol.realizations} realizations."


def render(name):
    """The text of a page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROOT / "docs" / "templates"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown from our own templates and results
    )
    functions = (
        row, estimate, difference, verdict, standard_examples, chosen_alpha, zero_share, faster,
        cost_of_attack, norm, include, picture, sort_methods, compare_to_ce,
        compare, gradient_ratio, describe_models, robustness,
        describe_inside, count_inside, single_step_gaps,
    )  # fmt: skip
    environment.globals |= {function.__name__: function for function in functions}
    environment.globals |= {
        "epochs": lambda folder: RunFolder(ROOT / folder).protocol.epochs,
        "realizations": lambda folder: RunFolder(ROOT / folder).protocol.realizations,
        "gpu_epochs": GPU_EPOCHS,
        "adversarial": ADVERSARIAL,
        "routes": ROUTE_LABELS,
        "larger_step": label_method("ce_step"),
        **FOLDERS,
    }
    return environment.get_template(name).render()


def main():
    for name, path in PAGES.items():
        text = render(name)
        if "--check" not in sys.argv:
            path.write_text(text)
        elif path.read_text() != text:
            sys.exit(f"{path.relative_to(ROOT)} differs from saved results: run docs/render.py")


if __name__ == "__main__":
    main()
