"""The identity of a run: all that decides what comes out of it, by name. Files of results belong to one."""

from mmlens.core.identity import UnknownIdentityError, identity_of
from mmlens.models.claims import in_force
from mmlens.models.edit_ledger import ledger_of
from mmlens.models.fingerprint import fingerprint, recent_fingerprint
from mmlens.models.protocol import HookedModel


def run_identity(model: HookedModel, exact: bool = True, **settings: object) -> dict[str, str]:
    """What decides the results of runs on a model as it is now, as hashes.

    Args:
        model: the hooked model.
        exact: hash the weights anew, and refuse what cannot be told: what a file needs that another run may continue. Else
            weights are hashed anew only where torch counts a change, and what cannot be told is said: a record of what ran.
        settings: everything else, by what it is: batches, points, a metric.

    Returns:
        By name: the weights (with what acts of adapters), how strongly adapters act, edits, interventions and hooks in force,
        and each of the settings.

    Raises:
        UnknownIdentityError: if one of them cannot be told, and `exact`.

    Example:
        >>> import mmlens as mm
        >>> plain = run_identity(model, at="blocks.1.hook_resid_post")
        >>> with model.intervene(mm.Scale("blocks.0.hook_mlp_out", 2.0)):
        ...     scaled = run_identity(model, at="blocks.1.hook_resid_post")
        >>> [name for name in plain if plain[name] != scaled[name]]
        ['interventions']
    """
    weights = f"{type(model.base).__name__} {fingerprint(model) if exact else recent_fingerprint(model)}"
    pieces = {"weights": weights, "adapters": _adapters(model), **changes_in_force(model), **settings}
    names = {name: name.replace("_", " ") for name in pieces}
    return {names[name]: _told(piece, names[name], exact) for name, piece in pieces.items()}


def _told(piece: object, name: str, exact: bool) -> str:
    try:
        return identity_of(piece, name)
    except UnknownIdentityError:
        if exact:
            raise
        return "unknown"


def changes_in_force(model: HookedModel) -> dict[str, list[object]]:
    """What is in force on a model: edits of its weights as rows and deltas; interventions, and hooks with their names."""
    edits: list[object] = [(list(map(str, e.edit.rows)), e.edit.deltas) for e in ledger_of(model.base).entries]
    return {"edits": edits, "interventions": in_force(model)}


def _adapters(model: HookedModel) -> dict[str, list[float]]:
    """Of each adapter that acts, how strongly it does in each layer."""
    layers: list[dict[str, float]] = [getattr(module, "scaling", {}) for module in model.hf_model.modules()]
    return {
        name: [float(scaling[name]) for scaling in layers if isinstance(scaling, dict) and name in scaling]
        for name in model.active_adapters
    }
