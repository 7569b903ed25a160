"""A model and its fine-tuned versions on one copy of the weights: peft adapters, switched on and off."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mmlens.core.errors import InputError
from mmlens.core.names import nearest
from mmlens.models.protocol import HookedModel


@dataclass(frozen=True)
class Adapters:
    """The peft adapters of a model.

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
        """Names of the adapters that act now; empty for the base model."""
        layers = list(self._adapted_layers())
        if not layers or layers[0].disable_adapters:
            return ()
        return tuple(layers[0].active_adapters)

    @contextmanager
    def adapter(self, name: str | None) -> Iterator[HookedModel]:
        """Have one adapter act inside the `with`, or none; afterwards the model is as it was.

        Args:
            name: an adapter that the model holds, or None for the base model.

        Raises:
            InputError: if the model holds no such adapter; while another thread has something in force on the model.

        Example:
            >>> import mmlens as mm
            >>> tuned = mm.lab.load_tuned()
            >>> with tuned.adapter("place"):
            ...     tuned.caption(scene.image).split()[0]
            'on'
        """
        if name is not None and name not in self.names:
            held = ", ".join(self.names) or "none: it is no peft model"
            close = nearest(name, self.names)
            raise InputError(
                f"The model holds no adapter {name!r}; it holds {held}."
                + (f" Nearest: {close[0]}." if close else "")
                + " None stands for the base model."
            )
        layers = list(self._adapted_layers())
        before = [(layer, layer.disable_adapters, list(layer.active_adapters)) for layer in layers]
        gradients = [(parameter, parameter.requires_grad) for layer in layers for parameter in layer.parameters()]
        try:
            for layer in layers:
                layer.enable_adapters(name is not None)
                if name is not None:
                    layer.set_adapter([name])
            yield self.model
        finally:
            for layer, disabled, active in before:
                layer.set_adapter(active)
                layer.enable_adapters(not disabled)
            for parameter, wanted in gradients:  # peft decides anew which adapters learn
                parameter.requires_grad_(wanted)

    def _adapted_layers(self) -> Iterator[Any]:
        return (
            module
            for module in self.model.hf_model.modules()
            if hasattr(module, "base_layer") and hasattr(module, "disable_adapters")
        )
