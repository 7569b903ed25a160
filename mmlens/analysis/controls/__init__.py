"""Matched random sets of units: what a finding about neurons or heads stands beside."""
