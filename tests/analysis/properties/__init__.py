"""Tests of the measured properties of neurons."""
