"""Claims about methods against hallucination."""

from benchmarks.claims.claim import Claim, Printed

_PAGE = "docs/mitigation.md"
_CHOSEN = "settings of each method, by accuracy on validation questions"
_CONTROL = "random changes as strong, and the model as it is"
_NARRATOR = "python -m benchmarks.mitigation --part narrator --scenes 100 --validation 24 --seeds 2"

CLAIMS: tuple[Claim, ...] = ()
PRINTED = (
    Printed(
        "mitigation, planted prior",
        _PAGE,
        "## A planted prior",
        "python -m benchmarks.mitigation --part planted --scenes 40",
        "method",
        _CHOSEN,
        "40 fresh pictures",
        _CONTROL,
        "planted",
    ),
    Printed(
        "mitigation, narrator",
        _PAGE,
        "## The narrator",
        _NARRATOR,
        "method",
        _CHOSEN,
        "100 fresh scenes (50 captions), seed 61170227",
        _CONTROL,
        "narrator, tuned",
    ),
    Printed(
        "mitigation, captioner",
        _PAGE,
        "## Refusals of the captioner",
        "python -m benchmarks.mitigation --part captioner --scenes 60 --validation 24 --seeds 4",
        "method",
        "settings of each method, by attacks and harmless answers on validation requests",
        "60 fresh requests of each kind",
        _CONTROL,
        "captioner",
    ),
)
