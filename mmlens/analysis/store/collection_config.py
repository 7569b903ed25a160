"""What was asked when states were collected: two runs may share a store only if they asked the same."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from mmlens.core.errors import InputError
from mmlens.core.identity import identity_of
from mmlens.models.fingerprint import fingerprint
from mmlens.models.hooked import HookedMultimodal
from mmlens.models.identity import changes_in_force


@dataclass(frozen=True)
class CollectionConfig:
    """What was collected, and from what.

    Attributes:
        model: class of the Hugging Face model.
        fingerprint: of its weights.
        adapters: the adapters that acted.
        edits: a hash of the edits in force, and how many there were.
        interventions: the same of interventions and hooks.
        processor: its class, and a hash of how it makes pixels and prompts.
        points: hook names.
        rule: which states of a sample are kept, in words.
        prompt: what samples without a prompt of their own were asked.
        max_new_tokens: of the generation; 0 where there was none.
        dtype: in which states are kept.
    """

    model: str
    fingerprint: str
    adapters: tuple[str, ...]
    edits: str
    interventions: str
    processor: str
    points: tuple[str, ...]
    rule: str
    prompt: str
    max_new_tokens: int
    dtype: str

    @classmethod
    def of(
        cls,
        model: HookedMultimodal,
        points: tuple[str, ...],
        *,
        rule: str,
        prompt: str,
        max_new_tokens: int,
        dtype: str,
    ) -> "CollectionConfig":
        """The question put to a model."""
        changes = changes_in_force(model)
        return cls(
            type(model.hf_model).__name__,
            fingerprint(model),
            model.active_adapters,
            _counted(changes["edits"], "edits"),
            _counted(changes["interventions"], "interventions"),
            _processor(model.processor),
            points,
            rule,
            prompt,
            max_new_tokens,
            dtype,
        )

    @property
    def source(self) -> str:
        """The model in one string, with what was in force on it."""
        changes = {"edits": self.edits, "interventions": self.interventions}
        in_force = [f"with {number} {kind}" for kind, number in changes.items() if number != "none"]
        return " ".join([self.model, self.fingerprint, *self.adapters, *in_force])

    def require(self, other: "CollectionConfig", where: str) -> None:
        """Check that a run asks what the store was made with.

        Raises:
            InputError: if not; lists everything that differs.
        """
        before, now = asdict(self), asdict(other)
        wrong = [
            f"{name}: stored {_said(before[name])}, now {_said(now[name])}"
            for name in before
            if before[name] != now[name]
        ]
        if wrong:
            raise InputError(
                f"The store at {where} was collected with another question; "
                + "; ".join(wrong)
                + ". Ask the same to go on with it, or collect into another folder."
            )

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "CollectionConfig":
        """What `as_json` gave, read back."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
        }
        return cls(**values)


def _counted(changes: list[object], kind: str) -> str:
    return f"{len(changes)} ({identity_of(changes, kind)})" if changes else "none"


def _said(value: object) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)


def _processor(processor: Any) -> str:
    """A processor's class and what it does: settings of its pictures, size of its vocabulary, chat template."""
    if processor is None:
        return "none"
    pictures: Any = getattr(processor, "image_processor", None)
    settings = pictures.to_dict() if hasattr(pictures, "to_dict") else {}
    tokenizer = getattr(processor, "tokenizer", processor)
    pieces = [
        json.dumps(settings, sort_keys=True, default=str),
        str(len(tokenizer)),
        str(getattr(processor, "chat_template", None)),
    ]
    return f"{type(processor).__name__} {hashlib.sha256('|'.join(pieces).encode()).hexdigest()[:8]}"
