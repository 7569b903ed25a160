"""All claims, a file for each subject."""

from benchmarks.claims.catalogue import edits, mitigation, neurons, pages, shift, speed, steering, structure
from benchmarks.claims.claim import Claim, Printed

CLAIMS: tuple[Claim, ...] = tuple(
    claim for part in (structure, speed, neurons, edits, shift, steering, mitigation, pages) for claim in part.CLAIMS
)
PRINTED: tuple[Printed, ...] = tuple(
    table for part in (structure, speed, neurons, edits, shift, steering, mitigation, pages) for table in part.PRINTED
)
