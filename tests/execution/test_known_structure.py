"""When the structure of a model is known, and the short texts on which such a model is tried."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mmlens.execution.known_structure import _is_of_known_package, _special_tokens, known_structure, short_text
from tests.conftest import Subject


def claimed_as(subject: Subject, **claims: Any) -> Any:
    """The model, as it says something else about itself."""
    model = subject.model
    said = {"base": model.base, "hf_model": model.base, "discovered": model.discovered, "family": model.family}
    return SimpleNamespace(**{**said, **claims})


def test_a_declared_plain_model_is_known(subject: Subject) -> None:
    known = known_structure(subject.model)
    assert known is not None
    assert known == known_structure(claimed_as(subject))
    name, kinds, kernels, dtypes, training = known  # type: ignore[misc]
    assert name == subject.model.family.name
    assert len(kinds) == len([*subject.model.base.modules()])
    assert set(kernels) <= {"eager", "sdpa"}
    assert dtypes == (torch.float32,)
    assert not training


def test_what_may_compute_otherwise_is_not_known(llava: Subject) -> None:
    model = llava.model
    assert known_structure(claimed_as(llava, hf_model=nn.Module())) is None
    assert known_structure(claimed_as(llava, discovered=True)) is None
    assert known_structure(claimed_as(llava, family=replace(model.family, name="other"))) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.base, "is_quantized", True, raising=False)
        assert known_structure(model) is None
        assert known_structure(claimed_as(llava, hf_model=nn.Module())) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.base.config, "_attn_implementation_internal", "somebody's")
        assert known_structure(model) is None


@pytest.mark.parametrize(
    ("home", "known"),
    [
        ("torch.nn.modules.linear", True),
        ("transformers.models.llava.modeling_llava", True),
        ("timm.layers", True),
        ("transformers.integrations.bitsandbytes", False),
        ("transformers.quantizers.base", False),
        ("torchvision.ops", False),
        ("torch.nn_like", False),
        (None, False),
    ],
)
def test_the_packages_whose_code_is_known(home: str | None, known: bool) -> None:
    assert _is_of_known_package(SimpleNamespace(__module__=home)) is known


def test_special_tokens_are_what_a_configuration_names() -> None:
    config = SimpleNamespace(
        image_token_id=5,
        image_token_index=6,
        eos_token_ids=[1, 2],
        pad_token_id=None,
        tie_token_id=True,
        hidden_size=99,
        text_config=SimpleNamespace(bos_token_id=7, vision_config=SimpleNamespace(start_token_id=8)),
        other_config={"bos_token_id": 9},
    )
    assert sorted(_special_tokens(config)) == [1, 2, 5, 6, 7, 8]


def test_a_short_text_repeats_the_words_of_the_first_sample(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    text = short_text(model, batch)
    assert text is not None
    special = set(_special_tokens(model.config))
    assert special
    words = [token for token in batch["input_ids"][0].tolist() if token not in special]
    words = [word for word in words if word in batch["input_ids"][0, batch.layout.text[0]].tolist()]
    assert text["input_ids"].tolist() == [(words * 12)[-12:]]
    assert text["attention_mask"].tolist() == [[1] * 12]


def test_no_words_make_no_text(llava: Subject) -> None:
    model, batch = llava.model, llava.batches["left"]
    pictures = torch.full_like(batch["input_ids"], next(iter(_special_tokens(model.config))))
    assert short_text(model, replace(batch, inputs={**batch.inputs, "input_ids": pictures})) is None
    embeddings = {name: value for name, value in batch.inputs.items() if name != "input_ids"}
    assert short_text(model, replace(batch, inputs=embeddings)) is None


def test_rows_that_are_no_text_give_no_words_of_a_long_prompt() -> None:
    """Here nothing is special, and text stands at the end of 300 tokens; layouts of another length say nothing about tokens."""
    ids = torch.arange(300)[None]
    layout = SimpleNamespace(is_token=torch.ones(1, 300, dtype=torch.bool), text=[torch.arange(280, 300)])
    model: Any = SimpleNamespace(config=SimpleNamespace(), batch=lambda inputs: inputs)
    batch: Any = SimpleNamespace(inputs={"input_ids": ids}, layout=layout)
    batch = type("Batch", (), {**vars(batch), "__getitem__": lambda self, name: self.inputs[name]})()
    found: Any = short_text(model, batch)
    assert found["input_ids"].tolist() == [list(range(288, 300))]
    layout.text = [torch.arange(5)]
    found = short_text(model, batch)
    assert found["input_ids"].tolist() == [([0, 1, 2, 3, 4] * 3)[-12:]]
    layout.is_token = torch.ones(1, 310, dtype=torch.bool)
    found = short_text(model, batch)
    assert found["input_ids"].tolist() == [list(range(288, 300))]
