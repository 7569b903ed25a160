"""The exercises of the course, unit by unit."""

from mmlens.lab.course.units import (
    attention,
    capstone,
    circuits,
    concepts,
    edits,
    lens,
    look,
    neurons,
    patching,
    rows,
    shift,
    steering,
)

UNITS = tuple(
    unit.EXERCISES
    for unit in (look, rows, neurons, patching, attention, lens, circuits, concepts, edits, shift, steering, capstone)
)
