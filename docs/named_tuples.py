"""Tells griffe, which reads the sources for the API reference, what a NamedTuple is made of."""

import griffe


class NamedTuples(griffe.Extension):
    """Adds the constructor that Python adds, so that fields are shown with types and defaults."""

    def on_class(self, *, cls, **_):
        if not any(str(base).endswith("NamedTuple") for base in cls.bases):
            return
        fields = [
            griffe.Parameter(
                name,
                annotation=field.annotation,
                kind=griffe.ParameterKind.positional_or_keyword,
                default=field.value,
            )
            for name, field in cls.members.items()
            if field.is_attribute and "property" not in field.labels
        ]
        parameters = griffe.Parameters(griffe.Parameter("self"), *fields)
        cls.set_member("__init__", griffe.Function("__init__", parameters=parameters))
