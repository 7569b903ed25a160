"""How fast mmlens is, beside the limit and its peers: `python -m benchmarks`."""
