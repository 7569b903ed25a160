"""Pictures of results. Takes results, never models; results call these as `.plot()` and `.draw()`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
