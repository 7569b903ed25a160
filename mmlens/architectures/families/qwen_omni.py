"""The thinkers of Qwen2.5-Omni and Qwen3-Omni on pictures and silent videos: the part that reads them and speech, and writes.

What speaks aloud (the talker) reads what a thinker wrote, and is no part of it. Pictures go through Qwen2.5-VL's windowed
tower, or through Qwen3-VL's, with DeepStack and a mixture of experts; the audio tower beside it sees no picture.

Source: Xu et al., Qwen2.5-Omni Technical Report, 2025 (https://arxiv.org/abs/2503.20215).
Source: Xu et al., Qwen3-Omni Technical Report, 2025 (https://arxiv.org/abs/2509.17765).
"""

from dataclasses import replace

from mmlens.architectures.families.packed import GATED_PACKED_BLOCK, PACKED_VIDEOS, packed_vision, with_durations
from mmlens.architectures.families.projectors import projector_at
from mmlens.architectures.families.qwen2_vl import QWEN2_5_VL
from mmlens.architectures.families.qwen3_vl import QWEN3_VL
from mmlens.declarations.projector import DeepStack
from mmlens.declarations.registry import register_family
from mmlens.declarations.structure import Attention, Mlp
from mmlens.inputs.patch_geometry.packed import by_window, packed_video_places

_BLOCK = replace(
    GATED_PACKED_BLOCK, attn=Attention(kernel="attn", branch="attn", q="attn.q", k="attn.k", v="attn.v", o="attn.proj")
)

_DURATIONS = with_durations("video_second_per_grid")


QWEN2_5_OMNI = register_family(
    replace(
        QWEN2_5_VL,
        name="qwen2_5_omni",
        classes=("Qwen2_5OmniThinkerForConditionalGeneration",),
        vision=packed_vision(_BLOCK),
        placeholder="<|vision_bos|><|IMAGE|><|vision_eos|>",
        extra_inputs=None,
        videos=replace(
            PACKED_VIDEOS,
            places=packed_video_places(order=by_window),
            inputs=_DURATIONS,
            placeholder="<|vision_bos|>{}<|vision_eos|>",
        ),
    )
)

QWEN3_OMNI = register_family(
    replace(
        QWEN3_VL,
        name="qwen3_omni",
        classes=("Qwen3OmniMoeThinkerForConditionalGeneration",),
        projector=projector_at(
            "model.visual.merger",
            "hidden",
            down="mlp.2",
            up="mlp.0",
            act="mlp.1",
            receives_rows="vision",
            deepstack=DeepStack("model.visual.merger_list", Mlp(down="mlp.2", up="mlp.0", act="mlp.1"), "hidden"),
        ),
        extra_inputs=None,
        videos=replace(PACKED_VIDEOS, inputs=_DURATIONS),
    )
)
