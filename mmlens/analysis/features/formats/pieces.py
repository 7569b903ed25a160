"""What formats share: settings that are refused by name, and tensors by the names that files give them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mmlens.core.errors import InputError
from mmlens.core.wording import nearest_words


@dataclass(frozen=True)
class Files:
    """A dictionary's files, read.

    Attributes:
        where: the folder, or the file of weights, for messages.
        folder: the name of the folder.
        cfg: the configuration.
        tensors: by name.
    """

    where: str
    folder: str
    cfg: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]

    def wrong(self, what: str) -> InputError:
        """The error that says why the dictionary cannot be used."""
        return InputError(f"{self.where} cannot be used: {what}")

    def require_known(self, known: Collection[str], trainer: str) -> None:
        """Refuse settings that nobody here knows, since they may change what codes are.

        Raises:
            InputError: names them.
        """
        unknown = [name for name in self.cfg if name not in known]
        if unknown:
            hints = ", ".join(f"{name!r}={self.cfg[name]!r}{nearest_words(name, tuple(known))}" for name in unknown)
            raise self.wrong(f"its configuration has settings that {trainer} is not known to have: {hints}.")

    def require(self, **possible: tuple[object, ...]) -> None:
        """Refuse settings that ask for what nobody can do here; None and absence ask for nothing.

        Raises:
            InputError: names them, and what is possible.
        """
        for name, values in possible.items():
            value = self.cfg.get(name)
            if value is not None and value not in values:
                raise self.wrong(f"{name}={value!r}; possible are {', '.join(map(repr, values))}.")

    def named(self, *names: str, optional: Collection[str] = ()) -> dict[str, torch.Tensor]:
        """The tensors of some names, and no others.

        Raises:
            InputError: if one is missing, or another one there.
        """
        missing = [name for name in names if name not in self.tensors and name not in optional]
        others = [name for name in self.tensors if name not in names]
        if missing or others:
            problems = [f"lacks {', '.join(missing)}"] * bool(missing)
            problems += [f"holds {', '.join(others)}, which nothing here uses"] * bool(others)
            raise self.wrong(f"its file {' and '.join(problems)}; expected are {', '.join(names)}.")
        return {name: self.tensors[name] for name in names if name in self.tensors}


def row_norms(W_dec: torch.Tensor) -> torch.Tensor:
    """The norm of each feature's row, as far from 0 as SAELens keeps it."""
    return W_dec.float().norm(dim=-1).clamp_min(1e-8)
