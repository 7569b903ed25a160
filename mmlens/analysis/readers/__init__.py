"""Readers of data sets as they are published: files and folders to samples."""
