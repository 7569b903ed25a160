"""Sparse features: formats, splices, scores."""
