"""Patchscopes: against the model itself, a plain hook, and a model whose answer is known."""

from typing import Any

import pytest
import torch

from mmlens.analysis.lenses.patchscopes import patchscope
from mmlens.core.errors import InputError
from tests.analysis.conftest import Wrapped
from tests.conftest import Subject


def test_a_state_put_back_where_it_came_from_changes_nothing(subject: Subject) -> None:
    model = subject.model
    images = subject.batches["left"].images[0]
    batch = model.prepare("describe the image", images=[list(images)])
    scope = patchscope(
        model,
        batch,
        at="blocks.*.hook_resid_post",
        positions="last",
        target_prompt="describe the image",
        target_images=list(images),
        max_new_tokens=3,
        progress=False,
    )
    best, top = model(batch).detach()[0, -1].softmax(-1).topk(5)
    torch.testing.assert_close(scope.probabilities[0, :, 0], best.expand(3, -1), rtol=0, atol=1e-6)
    assert torch.equal(scope.top_tokens[0, :, 0], top.expand(3, -1))
    assert scope.text[0][0] == model.trace_generation(batch, names="hook_logits", max_new_tokens=3).text


def test_states_are_put_where_they_were_asked(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    scope = patchscope(
        model,
        batch,
        at=["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"],
        positions="image",
        target_prompt="what is red",
        target_position=-2,
        target_at="blocks.1.hook_resid_pre",
        batch_size=7,
        progress=False,
    )
    _, cache = model.run_with_cache(batch, names="blocks.1.hook_resid_post")
    target = model.prepare("what is red")
    for sample, pos in ((0, 3), (1, 15)):
        state = cache["blocks.1.hook_resid_post"][sample, int(batch.layout.image[sample][pos])]

        def put(activation: torch.Tensor, hook: Any, state: torch.Tensor = state) -> torch.Tensor:
            activation[:, -2] = state
            return activation

        logits = model.run_with_hooks(target, fwd_hooks=[("blocks.1.hook_resid_pre", put)]).detach()[0, -1]
        expected = logits.softmax(-1)[scope.top_tokens[sample, 1, pos]]
        torch.testing.assert_close(scope.probabilities[sample, 1, pos], expected, rtol=0, atol=1e-6)
    plain = model(target).detach()[0, -1].softmax(-1).max()
    assert float((scope.probabilities[..., 0] - plain).abs().max()) > 0.01, "no state moved the target prompt"


def test_a_carried_colour_is_said_under_a_prompt_without_a_picture(planted_patch: Wrapped) -> None:
    truth, prompt = planted_patch.truth, planted_patch.planted.prompt
    asked = {"at": "blocks.0.hook_resid_post", "positions": "last", "target_prompt": prompt, "progress": False}
    scope = patchscope(planted_patch.model, planted_patch.batch(), max_new_tokens=2, **asked)  # type: ignore[arg-type]
    assert scope.top(1)[0][0] == [truth.word]
    assert scope.text[0][0][0] == truth.word
    assert scope.to_frame()["word"].tolist() == [truth.word]
    none = patchscope(planted_patch.twin, planted_patch.batch(), **asked)  # type: ignore[arg-type]
    assert none.top(1)[0][0] == [truth.default_word]


def test_what_cannot_be_put_in_is_refused(llava: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(llava.model.hf_model), "forward", _no_run)
    batch = llava.batches["left"]
    common: dict[str, Any] = {"positions": "last", "target_prompt": "red", "progress": False}
    with pytest.raises(InputError, match=r"vision.hook_embed is \[batch patch d_vision\] with 24 last"):
        patchscope(llava.model, batch, at="vision.hook_embed", **common)
    with pytest.raises(InputError, match=r"target_position=50 lies outside the \d+ positions of the target prompt"):
        patchscope(llava.model, batch, at="hook_embed", target_position=50, **common)
    with pytest.raises(InputError, match=r"k=0 must be at least 1"):
        patchscope(llava.model, batch, at="hook_embed", k=0, **common)


def _no_run(*args: object, **kwargs: object) -> None:
    raise AssertionError("the model ran before the input was refused")
