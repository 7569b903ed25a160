"""Intervals, tests and corrections of measured values."""
