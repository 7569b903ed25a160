"""Scores of a run over a data set: what a model answered, beside what is true, with intervals and paired tests."""
