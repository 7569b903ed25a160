"""Concepts: a small dictionary of directions that explains the states of a word, in words and in pictures."""
