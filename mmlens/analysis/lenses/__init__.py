"""Lenses: what states inside the model would say."""
