"""Formats of sparse dictionaries, one file each: what their configurations mean and how their tensors are called."""
