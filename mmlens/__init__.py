"""mmlens: mechanistic interpretability for models that see.

import mmlens as mm

model = mm.HookedMultimodal.from_pretrained("path/to/checkpoint")      # or mm.lab.load(): small, embedded, offline
logits, cache = model.run_with_cache(model.prepare("what is this?", images="photo.png"))

What is used in every session stands here, everything else in the modules: `mm.neurons`, `mm.patching`, `mm.circuits`,
`mm.concepts`, `mm.steering`, ... The names are listed in `__init__.pyi`; each is loaded when it is first used, so that
`import mmlens` is quick.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
