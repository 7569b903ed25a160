"""dots3 on pictures: a packed tower whose later blocks are mixtures, and latent attention, indexed or in a window.

In some language blocks an indexer picks which keys each query may attend to, and the others see a window, with another
number of heads. The picks reach attention only where transformers runs a kernel of its own, so the language model keeps
that: of a block's attention there is `hook_z`, as the heads hand it to the last linear, behind a gate that every head has.
The audio tower sees no picture.

Source: dots studio, dots3-note, 2026 (https://huggingface.co/dots-studio/dots3-note-prev).
"""

from dataclasses import replace
from operator import attrgetter

from mmlens.architectures.families.blocks import (
    LATENT_ATTENTION,
    LLAMA_BLOCK,
    MIXTURE,
    SHARED_MIXTURE,
    llama_language,
    vision_tower,
)
from mmlens.architectures.families.packed import GATED_PACKED_BLOCK, merged_tokens
from mmlens.architectures.families.qwen2_vl import MERGER
from mmlens.declarations.family import Family
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Mlp
from mmlens.inputs.patch_geometry.packed import packed_places

_TOWER = "model.vision_tower"
_SPARSE_TOWER = replace(GATED_PACKED_BLOCK, mlp=MIXTURE)


_LATENT = replace(LLAMA_BLOCK, attn=replace(LATENT_ATTENTION, kernel=None, heads=attrgetter("self_attn.num_heads")))
_SPARSE = replace(_LATENT, mlp=SHARED_MIXTURE)

DOTS3_NOTE = register_family(
    Family(
        name="dots3_note",
        classes=("Dots3NoteForConditionalGeneration",),
        vision=vision_tower(f"{_TOWER}.blocks", (GATED_PACKED_BLOCK, _SPARSE_TOWER), packed=True),
        projector=replace(
            MERGER,
            receives=(f"{_TOWER}.norm", "hidden_states"),
            returns=f"{_TOWER}.merger",
            mlp=Mlp(down=f"{_TOWER}.merger.mlp.2", up=f"{_TOWER}.merger.mlp.0", act=f"{_TOWER}.merger.mlp.1"),
        ),
        language=llama_language(block=(_LATENT, _SPARSE)),
        places=packed_places(),
        placeholder="<|img|><|imgpad|><|endofimg|>",
        expand=merged_tokens,
    )
)
