"""The paper's experiments: a protocol says what an experiment is, `table` runs it."""
