"""Trains the second lab model: `python -m mmlens.lab.training.narrator --out DIR`."""
