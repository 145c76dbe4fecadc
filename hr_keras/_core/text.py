"""The pieces that all texts are made of."""

import csv
import dataclasses
import io
import json

# What the routes of an attack are called.
ROUTE_NAMES = {"probabilities": "as published", "logits": "exact"}


def rows_csv(rows):
    """Values of one dataclass as CSV: the names of its fields, then a line each.

    What is no single value, a list, is left out.
    """
    content = [
        {name: value for name, value in dataclasses.asdict(row).items() if type(value) is not list}
        for row in rows
    ]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(content[0]))
    writer.writeheader()
    writer.writerows(content)
    return buffer.getvalue()


def to_json(content):
    """JSON as all result files have it."""
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def plain_text(text):
    """Text from outside as one line that Markdown, HTML and a terminal show as it stands."""
    printable = "".join(character if character.isprintable() else " " for character in str(text))
    for character in "\\`*_{}[]<>#|~&":
        printable = printable.replace(character, f"\\{character}")
    return printable


def rows_markdown(header, rows):
    """The lines of a Markdown table."""
    first, *others = (f"| {' | '.join(row)} |" for row in (header, *rows))
    return [first, "|" + "---|" * len(header), *others]


def share(value):
    """A number ≥ 0, such as an accuracy: three decimals, no zero before the point."""
    return f"{value:.3f}".removeprefix("0")


def signed(value):
    """A difference of shares, with its sign."""
    return f"{'−' if value < 0 else '+'}{share(abs(value))}"


def mean_and_error(mean, standard_error):
    """`.717 ± .013`, or the mean alone where there is no standard error."""
    return share(mean) + ("" if standard_error is None else f" ± {share(standard_error)}")


def setting(protocol, with_alpha=True):
    """The protocol in a line."""
    optimizer = {"sgd": "SGD", "adam": "Adam"}[protocol.optimizer]
    schedule = ", ".join(f"×{factor:g} from {epoch}" for epoch, factor in protocol.schedule)
    return (
        f"{protocol.model}, {optimizer} {protocol.learning_rate:g}"
        f"{f' ({schedule})' if schedule else ''}, {protocol.epochs} epochs, "
        f"batch {protocol.batch_size}, {'mean image subtracted, ' if protocol.mean_image else ''}"
        f"{f'α = {protocol.alpha:g}, ' if with_alpha else ''}seed {protocol.seed}, "
        f"preset `{protocol.preset}`."
    )


def errors(realizations):
    """What stands behind a ±."""
    if realizations < 2:
        return "One realization: no standard error. Ask for more with `--realizations`."
    return f"Mean ± standard error over {realizations} realizations."
