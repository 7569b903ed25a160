"""Loading sparse dictionaries that others trained."""

from dataclasses import replace

from mmlens.analysis.features.dictionary import SparseDictionary
from mmlens.analysis.features.files import read_files
from mmlens.analysis.features.formats import dictionary_learning, gemma_scope, saelens, sparsify
from mmlens.core.contract import checked
from mmlens.core.errors import DamagedFileError, InputError
from mmlens.core.kinds import PathLike, Text
from mmlens.core.tensor_kinds import Device

#: What configurations call the number of features.
_COUNTS = ("d_sae", "num_latents", "width")
_FORMATS = (gemma_scope, saelens, sparsify, dictionary_learning)


@checked
def load_sae(
    path: PathLike, *, at: Text | None = None, at_in: Text | None = None, device: Device | None = None
) -> SparseDictionary:
    """A sparse autoencoder or transcoder from its folder, used as its configuration says.

    Read are SAELens's folders (version 6 and the flat ones before), Gemma Scope 2's, sparsify's and multimodal-sae's, and
    dictionary_learning's (`docs/features.md` lists every architecture and setting). What nothing can do right is refused by name:
    settings that are not known, scalings that have to be folded into the weights first, codes that depend on other states.

    Args:
        path: the folder, or the file of weights in it.
        at: the hook point that it gives back, where its files do not say, or say it for another model.
        at_in: of a transcoder, what it reads: see `SparseDictionary`.
        device: where to put it; the CPU by default.

    Raises:
        InputError: if a file is missing, the configuration is of no known trainer, or asks for what cannot be right.
        DamagedFileError: for files that are cut off or do not match their checksums.

    Example:
        >>> sae = load_sae("gemma-scope-2-4b-it/resid_post/layer_17_width_16k_l0_small")  # doctest: +SKIP
        >>> codes = sae.encode(cache[sae.at])  # doctest: +SKIP
    """
    files = read_files(path)
    form = next((form for form in _FORMATS if form.reads(files.cfg)), None)
    if form is None:
        raise files.wrong(
            "its configuration is that of no trainer that is known here (SAELens, Gemma Scope 2, sparsify, "
            f"dictionary_learning); it says {', '.join(files.cfg) or 'nothing'}."
        )
    try:
        dictionary = form.read(files)
    except DamagedFileError:
        raise
    except InputError as error:
        raise error if str(error).startswith(files.where) else files.wrong(str(error)) from error
    sizes = {"d_in": dictionary.d_in, "d_out": dictionary.d_out, **dict.fromkeys(_COUNTS, len(dictionary))}
    wrong = [
        f"{name}={files.cfg[name]} for {size}"
        for name, size in sizes.items()
        if files.cfg.get(name) not in (None, 0, size)
    ]
    if wrong:
        raise files.wrong(f"its configuration is that of other weights: {', '.join(wrong)}.")
    if at_in is not None and not dictionary.is_transcoder:
        raise files.wrong(f"it is an autoencoder, which reads what it gives back; leave out at_in={at_in!r}.")
    dictionary = replace(
        dictionary, at=dictionary.at if at is None else at, at_in=dictionary.at_in if at_in is None else at_in
    )
    return dictionary if device is None else dictionary.to(device)
