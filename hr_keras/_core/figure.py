"""A figure, and its bytes."""

import io


def new_figure(**arguments):
    """A Matplotlib figure that no window ever shows."""
    from matplotlib.figure import Figure

    return Figure(layout="constrained", **arguments)


def rendered(figure):
    """The figure in both formats: no date, no version and no random names in the files."""
    import matplotlib

    pictures = {}
    with matplotlib.rc_context({"svg.hashsalt": "hr_keras"}):
        for kind, metadata in (
            ("png", {"Software": None}),
            ("svg", {"Date": None, "Creator": None}),
        ):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
            pictures[kind] = buffer.getvalue()
    return pictures
