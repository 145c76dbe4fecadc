"""Turns the JSON files of the other scripts into the Markdown tables of RESULTS.md.

python results.py attacks.json evaluation.json … --earlier FOLDER --output RESULTS.md
"""

import argparse
import itertools
import json
import pathlib
import statistics

# What is shown of a row, by the kind of table that it belongs to; other keys become columns.
_TIMED = ("name", "median", "min", "max", "ratio (min–max)", "note")
_LIMIT = ("quantity", "measured", "min", "max", "limit", "held")


def markdown(path, earlier=None):
    """A section for one JSON file: what it ran on, its limits, its tables.

    Beside each limit, what it was in an `earlier` run: a folder with a file of the same name.
    """
    content = json.loads(pathlib.Path(path).read_text())
    before = {}
    if earlier and (old := pathlib.Path(earlier) / pathlib.Path(path).name).exists():
        before = {_key(row): row for row in json.loads(old.read_text())["rows"] if "limit" in row}
    ran_on = ", ".join(f"{key} {value}" for key, value in content["machine"].items() if value)
    limits = [row for row in content["rows"] if "limit" in row]
    tables = [row for row in content["rows"] if "limit" not in row]
    parts = [f"## {pathlib.Path(path).stem}", ran_on]
    if limits:
        rows = [{"of": row["title"]} | {key: row[key] for key in _LIMIT} for row in limits]
        for shown, row in zip(rows, limits, strict=True):
            if before:
                shown["in an earlier run"] = before.get(_key(row), {}).get("measured", "")
        parts += ["Limits (median, minimum and maximum of the repeats):", table(rows)]
    for title, rows in itertools.groupby(tables, key=lambda row: row.get("title", "")):
        parts += [f"### {title}"] if title else []
        parts.append(table([_shown(row) for row in rows]))
    return "\n\n".join(parts)


def _key(row):
    return row["title"], row["quantity"]


def _shown(row):
    if "ratio_min" not in row:  # not one of `report`
        return {key: value for key, value in row.items() if key != "title"}
    seconds = row["seconds"]
    shown = {
        "name": row["name"],
        "median": statistics.median(seconds),
        "min": min(seconds),
        "max": max(seconds),
        "ratio (min–max)": f"{row['ratio']:.3f} ({row['ratio_min']:.3f}–{row['ratio_max']:.3f})",
        "note": row.get("note", ""),
    }
    return {key: shown[key] for key in _TIMED}


def summary(contents):
    """Five lines about the contents of the files, by their names."""
    machines = [content["machine"] for content in contents.values()]
    dates = sorted({machine.get("date", "an unknown day") for machine in machines})
    where = sorted({f"{one['processors']} × {one['cpu'] or one['machine']}" for one in machines})
    repeats = [f"{name} {_repeats(content['rows'])}" for name, content in contents.items()]
    limits = [row for content in contents.values() for row in content["rows"] if "limit" in row]
    missed = [
        f"{row['title']}: {row['quantity']} {_text(row['measured'])}, limit {row['limit']}"
        for row in limits
        if not row["held"]
    ]
    lines = (
        f"Measured: {' to '.join(dict.fromkeys((dates[0], dates[-1])))}, on {', '.join(where)}. "
        "Scripts without a section were not run on the present code.",
        f"Repeats, the most of each script: {', '.join(repeats)}.",
        f"Limits: {len(limits) - len(missed)} of {len(limits)} are held.",
        f"Missed: {'; '.join(missed) or 'none'}.",
        "Ratio: seconds by those of the first row of the table, pair by pair, so that a drifting "
        "machine slows both alike; the median. Limit: what a quantity must be at most (≤) or at "
        "least (≥); a / b is seconds by seconds where it names no unit.",
    )
    return "\n".join(f"- {line}" for line in lines)


def _repeats(rows):
    """Seconds of a row of `report`, measurements of a limit, or seeds of an attack."""
    seeds = {row["seed"] for row in rows if "seed" in row}
    timed = [len(row["seconds"]) for row in rows if isinstance(row.get("seconds"), list)]
    return max([1, len(seeds), *timed, *(row.get("repeats", 1) for row in rows)])


def table(rows):
    """Rows, dicts of the same keys or some of them, as a Markdown table."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = [keys, ["---"] * len(keys)]
    lines += [[_text(row.get(key, "")) for key in keys] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value):
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value).replace("|", "\\|")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", help="JSON files that the scripts wrote")
    parser.add_argument("--earlier", help="folder with JSON files of an earlier run")
    parser.add_argument("--output", default="RESULTS.md")
    given = parser.parse_args()
    head = "# Results\n\nMade by `results.py` from what the scripts measured, no number by hand."
    contents = {
        pathlib.Path(path).stem: json.loads(pathlib.Path(path).read_text()) for path in given.files
    }
    sections = [head, summary(contents), *(markdown(path, given.earlier) for path in given.files)]
    pathlib.Path(given.output).write_text("\n\n".join(sections) + "\n")


if __name__ == "__main__":
    main()
