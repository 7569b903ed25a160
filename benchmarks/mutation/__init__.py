"""Mutation run: what single faults of the code the tests see; `python -m benchmarks.mutation --help`."""
