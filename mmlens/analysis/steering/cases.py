"""What a steering report holds: every answer before and after, and what is known of each intervention."""

from dataclasses import dataclass

from mmlens.core.answer_text import normalised


@dataclass(frozen=True)
class SteeringCase:
    """One prompt under one intervention.

    Attributes:
        intervention: its name.
        group: name of the set of prompts, e.g. the type of answer.
        shown: which picture (or text); cases that share it are not independent.
        prompt: what was asked.
        truth: the true answer, or those that count, if known.
        before, after: the model's answers.
        score: of the answers before and after, 0 to 1; None where the truth is not known.
    """

    intervention: str
    group: str
    shown: str
    prompt: str
    truth: str | tuple[str, ...] | None
    before: str
    after: str
    score: tuple[float, float] | None

    @property
    def changed(self) -> bool:
        """Whether the answer is another one, once both are normalised."""
        return normalised(self.before) != normalised(self.after)


@dataclass(frozen=True)
class SteeringFacts:
    """What the report says of an intervention itself.

    Attributes:
        name: as in the report.
        control_of: the intervention that this one repeats with other vectors; None for one that was asked for.
        described: how it prints itself.
        touched: positions that it changed, over all answers; None where it does not count them.
        kind: of a control: `"words"`, `"covariance"` or `"isotropic"`; empty for what was asked for.
        words: the words that steering leads from and to, where they were given.
    """

    name: str
    control_of: str | None
    described: str
    touched: int | None
    kind: str = ""
    words: tuple[tuple[str, ...], tuple[str, ...]] | None = None
