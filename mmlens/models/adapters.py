"""The peft adapters of a hooked model: which act, and how they are switched, exactly and back."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import nn

from mmlens.architectures.adapter_layers import (
    AdapterLayer,
    CopyWrapper,
    acting_adapters,
    acting_copy,
    adapter_layers,
    copies_module,
    is_adapter_layer,
    is_tuner,
    require_sum,
)
from mmlens.core.contract import checked
from mmlens.core.errors import InputError, UnsupportedModelError
from mmlens.core.interrupts import uninterrupted
from mmlens.core.names import nearest
from mmlens.models.claims import claimed
from mmlens.models.edit_ledger import ledger_of
from mmlens.models.protocol import HookedModel


def refuse_prompts(hf_model: nn.Module) -> None:
    """Refuse adapters that put tokens of their own in front of the prompt, or blocks between the model's.

    Raises:
        UnsupportedModelError: names them.
    """
    configs = getattr(hf_model, "peft_config", {})
    others = {
        name: str(getattr(config.peft_type, "value", config.peft_type))
        for name, config in configs.items()
        if config.is_prompt_learning or config.is_adaption_prompt
    }
    if others:
        names_text = ", ".join(f"{name!r} ({kind})" for name, kind in others.items())
        raise UnsupportedModelError(
            f"The adapters {names_text} learn a prompt, so positions of the model are not those of the text and its pictures. "
            "Supported are adapters that change weights: LoRA, DoRA, IA3, LoHa, LoKr, OFT, VeRA and others of the kind."
        )


class InPlace:
    """The modules that adapters have put in the place of a model's own, so far as which of them act may change.

    Args:
        hf_model: the Hugging Face model.
    """

    def __init__(self, hf_model: nn.Module):
        self._hf_model = hf_model
        self._names: tuple[str, ...] = ()
        self._wrappers: list[CopyWrapper] = []
        self._acting: list[int] = []
        self.changed()

    def changed(self) -> bool:
        """Whether adapters came or went, or another copy of a module acts, since this was asked last."""
        names = tuple(getattr(self._hf_model, "peft_config", ()))
        if names != self._names:
            self._wrappers = [layer for layer in adapter_layers(self._hf_model) if copies_module(layer)]
        ids = [id(acting_copy(wrapper)) for wrapper in self._wrappers]
        before, self._names, self._acting = (self._names, self._acting), names, ids
        return before != (names, ids)


@dataclass
class _Before:
    """How one object of peft was before it was switched.

    Attributes:
        target: a layer, or the model around them, which notes what was chosen last.
        values: its attributes.
        merged: the adapters that were merged into the layer's weights.
        weights: the bits of these weights: unmerging subtracts what was added, and rounding keeps that from being exact.
    """

    target: object
    values: dict[str, object]
    merged: list[str] = field(default_factory=list)
    weights: list[tuple[nn.Parameter, torch.Tensor]] = field(default_factory=list)

    @classmethod
    def of(cls, target: object) -> "_Before":
        values = {name: copy(vars(target)[name]) for name in _SWITCHED if name in vars(target)}
        if not is_adapter_layer(target) or not is_tuner(target) or not target.merged_adapters:
            return cls(target, values)
        weights = [(weight, weight.detach().clone()) for weight in target.get_base_layer().parameters()]
        return cls(target, values, list(target.merged_adapters), weights)

    def unmerge(self) -> None:
        """Take merged adapters out of the weights, as peft does."""
        if self.merged and is_tuner(self.target):
            self.target.unmerge()

    def restore(self) -> None:
        """Have everything as it was, to the bit."""
        if self.merged and is_tuner(self.target):
            vars(self.target).update(_disable_adapters=False, _active_adapter=self.merged)
            self.target.merge(adapter_names=self.merged)
            for weight, bits in self.weights:
                weight.data = bits.to(weight)
        vars(self.target).update(self.values)


#: Attributes in which peft notes what acts; written without its setters, which also decide anew what is trained.
_SWITCHED = ("_disable_adapters", "_active_adapter", "active_adapter", "_adapters_disabled")


@dataclass
class _Switch:
    """What is in force on one model's adapters.

    Attributes:
        requests: the adapters that shall act, innermost `with` last; `()` for the base model.
        before: how everything was before the first; empty while nothing is in force.
    """

    requests: list[tuple[str, ...]] = field(default_factory=list)
    before: list[_Before] = field(default_factory=list)

    def apply(self, layers: Sequence[AdapterLayer], hf_model: nn.Module) -> None:
        """Have the adapters act that were asked for last."""
        names = self.requests[-1]
        for layer in layers:
            available = layer._get_available_adapters()
            layer_names = [name for name in names if name in available or (not available and is_tuner(layer))]
            state = {"_active_adapter": layer_names} if names else {}
            vars(layer).update(state, _disable_adapters=not names)
        for model in _noting(hf_model):
            states: dict[str, object] = {"_adapters_disabled": not names}
            if names:  # the outer model knows one at a time
                states["active_adapter"] = names[0] if len(names) == 1 or model is hf_model else list(names)
            vars(model).update({name: value for name, value in states.items() if name in vars(model)})


_SWITCHES: "WeakKeyDictionary[nn.Module, _Switch]" = WeakKeyDictionary()


def _noting(hf_model: nn.Module) -> list[nn.Module]:
    """The models around the layers that note which adapter was chosen last: peft's own two."""
    outer = [hf_model, getattr(hf_model, "base_model", None)]
    return [model for model in outer if model is not None and "active_adapter" in vars(model)]


@dataclass(frozen=True)
class Adapters:
    """The peft adapters of a model, which may be peft's or one to which transformers' `add_adapter` gave some.

    Attributes:
        model: the hooked model.
    """

    model: HookedModel

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the adapters that the model holds; empty without peft."""
        return tuple(getattr(self.model.hf_model, "peft_config", ()))

    @property
    def active(self) -> tuple[str, ...]:
        """Names of the adapters that act now, merged ones among them; empty for the base model."""
        names = {name for layer in adapter_layers(self.model.hf_model) for name in acting_adapters(layer)}
        return tuple(name for name in self.names if name in names)

    @checked
    @contextmanager
    def adapter(self, *names: str | None) -> Iterator[HookedModel]:
        """Have one adapter act inside the `with`, several together, or none; afterwards the model is as it was, to the bit.

        Everything that peft switches is switched: adapted layers, copies of modules (`modules_to_save`), trained tokens, adapted
        experts; adapters that were merged into the weights are taken out and merged again. (That needs memory for the weights
        that they are merged into, once more.)

        Args:
            names: adapters that the model holds, or None for the base model.

        Raises:
            InputError: if the model holds no such adapter; while another thread has something in force on the model.

        Example:
            >>> import mmlens as mm
            >>> tuned = mm.lab.load_tuned()
            >>> with tuned.adapter("place"):
            ...     tuned.caption(scene.image).split()[0]
            'on'
        """
        request = self._require(names)
        with claimed(self.model, f"adapter({', '.join(map(repr, names))})", changes_weights=True):
            switch = _SWITCHES.setdefault(self.model.base, _Switch())
            try:
                with uninterrupted():
                    self._enter(switch, request)
                self._require_sums(request)
                yield self.model
            finally:
                with uninterrupted():
                    self._leave(switch, request)

    def _require(self, names: Sequence[str | None]) -> tuple[str, ...]:
        """The adapters that shall act.

        Raises:
            InputError: if they cannot.
        """
        names_now = tuple(name for name in names if name is not None)
        if not names or (names_now and len(names_now) < len(names)):
            raise InputError("adapter() takes the names of adapters, or None for the base model.")
        for name in names_now:
            if name not in self.names:
                holds = ", ".join(self.names) or "none: it is no peft model"
                close = nearest(name, self.names)
                raise InputError(
                    f"The model holds no adapter {name!r}; it holds {holds}."
                    + (f" Nearest: {close[0]}." if close else "")
                    + " None stands for the base model."
                )
        layers = list(adapter_layers(self.model.hf_model))
        for layer in layers:
            rivals = [name for name in names_now if name in layer._get_available_adapters()]
            if not is_tuner(layer) and len(rivals) > 1:
                raise InputError(
                    f"The adapters {', '.join(rivals)} each bring a copy of the same module ({type(layer).__name__}), of which "
                    "one can act at a time; name one of them."
                )
        edit_ids = {id(linear) for entry in ledger_of(self.model.base).entries for linear in entry.linears.values()}
        copies = (module for layer in layers if not is_tuner(layer) for module in layer.modules())
        if any(id(module) in edit_ids for module in copies):
            raise InputError(
                "An edit is in force in a module of which adapters have copies (modules_to_save), so it would not be in the "
                "other copy. Take it out, switch, and make it for what acts then."
            )
        return names_now

    def _require_sums(self, names: Sequence[str]) -> None:
        """Refuse edits in force under adapters that do not add to the weight."""
        for entry in ledger_of(self.model.base).entries:
            for point, linear in entry.linears.items():
                require_sum(linear, f"W_out behind {point}", f"with {entry.edit!r} in force")

    def _enter(self, switch: _Switch, request: tuple[str, ...]) -> None:
        layers = list(adapter_layers(self.model.hf_model))
        if not switch.requests:
            switch.before = [_Before.of(target) for target in [*layers, *_noting(self.model.hf_model)]]
            if any(before.merged for before in switch.before):
                with ledger_of(self.model.base).lifted():
                    # the bits without edits
                    switch.before = [_Before.of(before.target) for before in switch.before]
                    for before in switch.before:
                        before.unmerge()
        switch.requests.append(request)
        switch.apply(layers, self.model.hf_model)

    def _leave(self, switch: _Switch, request: tuple[str, ...]) -> None:
        # by identity: contexts may be closed in any order
        if not any(other is request for other in switch.requests):
            return
        switch.requests = [other for other in switch.requests if other is not request]
        if switch.requests:
            switch.apply(list(adapter_layers(self.model.hf_model)), self.model.hf_model)
            return
        was_merged = any(before.merged for before in switch.before)
        with ledger_of(self.model.base).lifted() if was_merged else nullcontext():
            for before in switch.before:
                before.restore()
        switch.before = []
