"""`Call`: one public call of TransformerLens, as data."""

from dataclasses import dataclass

#: TransformerLens's notebooks, by the letter that marks their calls.
NOTEBOOKS = {
    "M": "Main Demo",
    "E": "Exploratory Analysis",
    "A": "Activation Patching in TL",
    "T": "Attribution Patching",
    "D": "Direct Logit Attribution",
    "R": "ARENA Content",
}

#: How far two values may lie apart that are called equal.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Call:
    """One public call of TransformerLens, and what is expected of it on a bound model.

    The same code runs on `model = model.bind(batch)` and on TransformerLens's bridge around the same weights, with the same
    tokens and picture; its last expression is its value. Where nothing else is said, both give the same.

    Attributes:
        code: statements; names in scope are those of `scope`.
        notebooks: letters of the notebooks of TransformerLens that have it.
        differs: why the bridge gives another value, or none.
        truth: code of the right value in terms of the bare model or of other calls of the bridge, where the bridge differs.
        gap: how far the bridge's value lies from the bound model's, over all models; None where it gives none to compare.
        refused: why it is an error on a bound model.
        instead: what to write on a bound model.
        both_refuse: the bridge refuses it too.
        only: names of the models that it is about; all by default.
    """

    code: str
    notebooks: str = ""
    differs: str = ""
    truth: str = ""
    gap: float | None = None
    refused: str = ""
    instead: str = ""
    both_refuse: bool = False
    only: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its code on one line."""
        return "; ".join(line.strip() for line in self.code.strip().splitlines())
