"""MiniMax M3: a packed tower, and blocks in which an indexer picks which keys each query may attend to.

Those picks reach attention only where transformers runs a kernel of its own, so the language model keeps that: of a block's
attention there is `hook_z`. A block's hidden neurons are `hook_post` alone, for no module holds their activation. The
projector widens every patch to a language row before it merges squares; what has points is the merging.

Source: MiniMax, MiniMax-M3, 2026 (https://huggingface.co/MiniMaxAI/MiniMax-M3).
"""

from dataclasses import replace

from mmlens.architectures.families.blocks import MIXTURE, llama_language, projected, vision_tower
from mmlens.architectures.families.packed import merged_tokens
from mmlens.architectures.families.projectors import projector_at
from mmlens.declarations.family import Family
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Block, Mlp, Norm
from mmlens.inputs.patch_geometry.packed import packed_places

_DENSE = Block(
    attn=replace(projected("o_proj"), kernel=None),
    mlp=Mlp(down="mlp.down_proj", gate_up="mlp.gate_up_proj", branch="mlp"),
    ln1=Norm("input_layernorm", offset=1.0),
    ln2=Norm("post_attention_layernorm", offset=1.0),
)
_SPARSE = replace(
    _DENSE,
    mlp=replace(MIXTURE, shared=Mlp(down="mlp.shared_experts.down_proj", gate_up="mlp.shared_experts.gate_up_proj")),
)
_PROJECTOR = "model.multi_modal_projector"

MINIMAX_M3_VL = register_family(
    Family(
        name="minimax_m3_vl",
        classes=("MiniMaxM3SparseForConditionalGeneration",),
        vision=vision_tower("model.vision_tower.layers", packed=True, lone_axis=0),
        projector=projector_at(
            _PROJECTOR, down="merge_linear_2", up="merge_linear_1", act="merge_act", receives_rows="vision"
        ),
        language=llama_language(block=(_DENSE, _SPARSE), norm=Norm("norm", offset=1.0)),
        places=packed_places(),
        placeholder="]<]start of image[>[]<]image[>[]<]end of image[>[\n",
        expand=merged_tokens,
        left_padding="the blocks of keys that MiniMax M3 attends to are counted from the first position, padding included.",
    )
)
