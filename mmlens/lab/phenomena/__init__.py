"""Measurements of what a lab model shares with real vision-language models: `python -m mmlens.lab.phenomena`.

One file a phenomenon; each gives findings with an interval, beside a control that would be as large if there were no such thing.
"""
