"""Steering vectors from states and concepts, when they act, and what they do to a model's answers."""
