"""Attention heads that look at the picture: which locate what is asked about, and which look at all."""
