"""Hugging Face models as hook points: the families, and the building of their points."""
