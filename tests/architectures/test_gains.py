"""Norms whose weight is the gain's distance from 1, and sequences of all pictures with a batch axis of one."""

import torch

from mmlens.core import positions
from mmlens.inputs.positions import resolve
from tests.families.gemma_like import gemma3
from tests.families.mistral_like import mistral3
from tests.tiny import picture


@torch.no_grad()
def test_a_direction_times_the_normalised_stream_is_the_logit_where_gains_have_an_offset() -> None:
    model = gemma3()
    batch = model.prepare("describe the image", images=picture(0))
    logits, cache = model.run_with_cache(batch, names=["blocks.2.hook_resid_post", "ln_final.hook_scale"])
    stream = cache["blocks.2.hook_resid_post"] / cache["ln_final.hook_scale"]
    for token in (3, 17):
        torch.testing.assert_close(
            stream @ model.tokens_to_residual_directions(torch.tensor(token)), logits[..., token], atol=1e-4, rtol=1e-4
        )


def test_image_rows_of_one_sequence_with_a_batch_axis_are_those_of_all_pictures() -> None:
    model = mistral3()
    batch = model.prepare(["describe the image"] * 2, images=[[picture(0, 32, 64), picture(1, 48, 32)], [picture(2)]])
    patches = 4 * 8 + 6 * 4 + 4 * 4
    for name, count in (("vision.hook_embed", patches), ("projector.hook_out", patches // 4)):
        first, second = resolve(positions.image, batch, model.graph[name]).rows  # each sample's own
        assert torch.cat([first, second])[:, 1].tolist() == list(range(count))
        assert len(second) == count * 16 // patches
    _, cache = model.run_with_cache(batch, names=["vision.hook_embed", "projector.hook_out"])
    assert cache["vision.hook_embed"].shape[:2] == (1, patches)
    assert cache["projector.hook_out"].shape[0] == patches // 4
