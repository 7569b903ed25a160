"""Neurons: which of them write a word, what they write otherwise, and where in the picture they are active."""
