"""Dropout that is at work: with it no two runs of a model give the same, so that nothing measured of one holds of another."""

from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary, ref

from torch import nn

from mmlens.architectures.adapter_layers import AdapterLayer, acting_adapters, is_adapter_layer, is_tuner
from mmlens.core.errors import InputError

#: In the names of attributes that hold how often something is left out, or how far a router is shaken, while a model trains.
_WORDS = ("drop", "jitter")


@dataclass(frozen=True)
class _Chance:
    """An attribute of a module that leaves something out at random while the module is in training mode.

    Attributes:
        path: of the module.
        owner: the module, which decides by its mode; weakly, so that the record of a model does not keep it.
        attribute: its name.
        layer: the layer of peft that it belongs to, and whose it is of the adapters; None in the model itself.
        adapter: name of that adapter.
    """

    path: str
    owner: "ref[nn.Module]"
    attribute: str
    layer: AdapterLayer | None = None
    adapter: str | None = None

    @property
    def rate(self) -> float:
        """How often something is left out now."""
        layer, module = self.layer, self.owner()
        if module is None or not module.training:
            return 0.0
        if layer is not None and (layer.merged_adapters or self.adapter not in acting_adapters(layer)):
            return 0.0
        value = vars(module)[self.attribute]
        value = value.get(self.adapter) if isinstance(value, dict) else value
        return float(value) if isinstance(value, int | float) else 0.0


#: What may drop something in a model, with the adapters that it had when that was looked up.
_CHANCES: "WeakKeyDictionary[nn.Module, tuple[tuple[str, ...], list[_Chance]]]" = WeakKeyDictionary()


def _chances(hf_model: nn.Module) -> list[_Chance]:
    """What may drop something in a model, looked up again when adapters came or went."""
    names = tuple(getattr(hf_model, "peft_config", ()))
    chances = _CHANCES.get(hf_model)
    if chances is None or chances[0] != names:
        chances = _CHANCES[hf_model] = (names, list(_search(hf_model)))
    return chances[1]


def _search(hf_model: nn.Module) -> Iterator[_Chance]:
    tuners: dict[str, AdapterLayer] = {}
    for path, module in hf_model.named_modules():
        if is_adapter_layer(module) and is_tuner(module):
            tuners[path] = module
        layer, inside = _owner(path, tuners)
        attributes = ["p"] if isinstance(module, nn.modules.dropout._DropoutNd) else []
        attributes += [name for name in vars(module) if any(word in name.lower() for word in _WORDS)]
        for attribute in attributes:
            value = vars(module)[attribute]
            if isinstance(value, dict) and layer is not None:
                yield from (_Chance(path, ref(module), attribute, layer, adapter) for adapter in value)
            elif isinstance(value, int | float) and not isinstance(value, bool):
                yield _Chance(path, ref(module), attribute, layer, inside)


def _owner(path: str, tuners: dict[str, AdapterLayer]) -> tuple[AdapterLayer | None, str | None]:
    """The layer of peft that a module belongs to, unless it lies in what that layer wraps, and the adapter's name."""
    steps = path.split(".")
    for end in range(len(steps), 0, -1):
        layer = tuners.get(".".join(steps[:end]))
        if layer is not None:
            return (None, None) if steps[end : end + 1] == ["base_layer"] else (layer, steps[-1])
    return None, None


def refuse_dropout(hf_model: nn.Module) -> None:
    """Refuse to run a model in which dropout is at work; training mode without it is fine.

    Raises:
        InputError: names where; says what to do.
    """
    active = [chance for chance in _chances(hf_model) if chance.rate > 0]
    if not active:
        return
    words = [f"{chance.path or 'the model'} ({chance.attribute}={chance.rate:g})" for chance in active[:3]]
    raise InputError(
        f"Dropout is at work in {len(active)} places, so that no two runs give the same: {', '.join(words)}"
        f"{' ...' if len(active) > 3 else ''}. model.eval() puts it out; peft's get_peft_model leaves its layers in training "
        "mode."
    )
