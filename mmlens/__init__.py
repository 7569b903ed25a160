"""mmlens: mechanistic interpretability for models that see.

    import mmlens as mm

    model = mm.HookedMultimodal.from_pretrained("path/to/checkpoint")      # or mm.lab.load(): small, embedded, offline
    logits, cache = model.run_with_cache(model.prepare("what is this?", images="photo.png"))
"""

import importlib
from typing import Any

__version__ = "0.1.0"

#: Public names and where they live; loaded when first used, so that `import mmlens` is quick.
_PUBLIC = {
    "ActivationCache": "mmlens.hooks.cache",
    "HookGraph": "mmlens.hooks.graph",
    "HookedMultimodal": "mmlens.models.hooked",
    "InputError": "mmlens.core.errors",
    "MMLensError": "mmlens.core.errors",
    "MultimodalBatch": "mmlens.models.batch",
    "Neuron": "mmlens.core.places",
    "Head": "mmlens.core.places",
    "TokenLayout": "mmlens.models.layout",
    "UnknownNameError": "mmlens.core.errors",
    "UnsupportedModelError": "mmlens.core.errors",
    "VerificationError": "mmlens.core.errors",
    "register_family": "mmlens.models.family",
    "verify": "mmlens.models.verify",
}
_MODULES = ("lab",)

__all__ = [*_PUBLIC, *_MODULES, "__version__"]  # noqa: PLE0604 - the names are strings


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"mmlens.{name}")
    raise AttributeError(f"module 'mmlens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
