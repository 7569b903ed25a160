"""`Tune`: a LoRA fine-tune in a folder; `with_adapters`, several of them on one model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mmlens.architectures.adapter_files import with_adapter
from mmlens.core.contract import checked, checked_result
from mmlens.core.errors import InputError
from mmlens.core.kinds import Named, PathLike, Text
from mmlens.core.pictures import drawn_by
from mmlens.core.results import JsonKind
from mmlens.core.view import Viewable
from mmlens.models.hooked import HookedMultimodal

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure, SubFigure

#: The file of a fine-tune's folder that says how it was made.
RECORD = "finetune.json"
_FILE = JsonKind(
    "mmlens.tuning.Tune",
    1,
    "fine-tune",
    {"losses": list[float], "settings": dict[str, object], "identity": dict[str, str]},
)


@checked_result
@dataclass(frozen=True)
class Tune(Viewable):
    """A LoRA fine-tune: a folder that peft reads, and how it was made.

    Attributes:
        folder: holds adapter_config.json and adapter_model.safetensors.
        losses: of every step, in nats per token.
        settings: of `mm.finetune`.
        identity: the model, data and settings, as hashes.
    """

    folder: Path
    losses: tuple[float, ...] = field(repr=False)
    settings: Mapping[str, object] = field(default_factory=dict)
    identity: Mapping[str, str] = field(default_factory=dict, repr=False)

    def to_frame(self) -> "pd.DataFrame":
        """One row per step: its loss."""
        import pandas as pd

        return pd.DataFrame({"step": range(len(self.losses)), "loss": self.losses})

    @checked
    def plot(self, *, figure: "Figure | SubFigure | None" = None) -> "Figure":
        """The loss over the steps.

        Args:
            figure: a matplotlib figure or subfigure to draw into; a new one by default.
        """
        return drawn_by("tuning.plot_losses")(self, figure=figure)

    def record(self) -> None:
        """Write down in the folder how it was made."""
        _FILE.write(self.folder / RECORD, {name: value for name, value in asdict(self).items() if name != "folder"})

    @classmethod
    @checked
    def load(cls, folder: PathLike) -> "Tune":
        """The fine-tune of a folder.

        Raises:
            InputError: if the folder holds none that `mm.finetune` finished.
        """
        content = _FILE.read(Path(folder) / RECORD)
        return cls(Path(folder), tuple(content["losses"]), content["settings"], content["identity"])


@checked
def with_adapters(model: HookedMultimodal, folders: Named[Text, PathLike | Tune]) -> HookedMultimodal:
    """The model with adapters on its weights, none of which acts until `with tuned.adapter(name)`.

    The given model goes on to work: it is the base, and shares all weights.

    Args:
        model: a hooked model that holds no adapters.
        folders: of the adapters, by the name that each gets.

    Raises:
        InputError: for a model that holds adapters, or a folder that holds none that fits.

    Example:
        >>> import mmlens as mm
        >>> tuned = mm.tuning.with_adapters(mm.lab.load(), {"place": mm.lab.path().parent / "adapters" / "place"})
        >>> with tuned.adapter("place"):
        ...     tuned.caption(scene.image).split()[0]
        'on'
    """
    require_bare(model)
    base = str(getattr(model.base.config, "_name_or_path", "") or type(model.base).__name__)
    paths = {name: folder.folder if isinstance(folder, Tune) else Path(folder) for name, folder in folders.items()}
    for name, path in paths.items():
        if not (path / "adapter_config.json").is_file():
            raise InputError(f"The folder {path} of the adapter {name!r} holds no adapter_config.json.")
    learning = [(weight, weight.requires_grad) for weight in model.base.parameters()]
    (first, path), *others = paths.items()
    tuned = with_adapter(model.base, path, base, strict=True, options={"adapter_name": first})
    for name, path in others:
        tuned.load_adapter(str(path), adapter_name=name)
    cast(Any, tuned.base_model).disable_adapter_layers()
    for weight, flag in learning:  # torch rounds in other ways where nothing is to be learnt
        weight.requires_grad_(flag)
    return HookedMultimodal.from_hf(tuned.eval(), model.processor)


def require_bare(model: HookedMultimodal) -> None:
    """Refuse a model that holds adapters.

    Raises:
        InputError: names them.
    """
    if model.adapters:
        raise InputError(
            f"The model holds the adapters {', '.join(model.adapters)}; pass one without: merged "
            "(hf_model.merge_and_unload()), or its base."
        )
