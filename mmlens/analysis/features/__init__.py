"""Sparse features: dictionaries that others trained, their features as units, and what they do."""
