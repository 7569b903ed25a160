"""Checkpoint folders as the hub has them, small, and what must be true of every one of them."""
