"""The activation cache: what it keeps, how it is asked, and that a file is the cache again, whole or not at all."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mmlens.core import tensor_files
from mmlens.core.errors import InputError, UnknownNameError
from mmlens.hooks.cache import ActivationCache, gather_samples
from tests.conftest import Subject


def by_hand(subject: Subject, name: str, kind: str = "left") -> torch.Tensor:
    """The activation of one point, read with a hook."""
    seen: list[torch.Tensor] = []
    with torch.no_grad():
        subject.model.run_with_hooks(subject.batches[kind], fwd_hooks=[(name, lambda a, hook: seen.append(a.clone()))])
    assert len(seen) == 1
    return seen[0]


@torch.no_grad()
def test_by_default_it_holds_every_point_but_scores_and_patterns_in_order(subject: Subject) -> None:
    model = subject.model
    logits, cache = model.run_with_cache(subject.batches["left"])
    large = ("hook_attn_scores", "hook_pattern")
    assert list(cache.keys()) == [name for name in model.graph.names if not name.endswith(large)]
    assert torch.equal(cache["hook_logits"], logits)
    for name in ("hook_embed", "vision.blocks.1.mlp.hook_post", "projector.hook_out", "blocks.2.attn.hook_z"):
        assert torch.equal(cache[name], by_hand(subject, name))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("hook_logits", ["hook_logits"]),
        (["hook_logits", "hook_embed", "hook_logits"], ["hook_embed", "hook_logits"]),
        ("blocks.[01].hook_resid_p*", [f"blocks.{i}.hook_resid_{k}" for i in (0, 1) for k in ("pre", "post")]),
        (
            lambda name: name.endswith("2.attn.hook_pattern"),
            ["vision.blocks.2.attn.hook_pattern", "blocks.2.attn.hook_pattern"],
        ),
    ],
)
def test_names(llava: Subject, names: Any, expected: list[str]) -> None:
    _, cache = llava.model.run_with_cache(llava.batches["left"], names=names)
    assert list(cache.keys()) == expected
    assert (
        list(llava.model.run_with_cache(llava.batches["left"], names=llava.model.graph.select(names))[1].keys())
        == expected
    )


@torch.no_grad()
def test_positions_of_the_language_model(llava: Subject) -> None:
    model, name = llava.model, "blocks.1.hook_resid_post"
    for kind in ("left", "right"):
        batch, whole = llava.batches[kind], by_hand(llava, name, kind)
        own = [row.nonzero().flatten().tolist() for row in batch["attention_mask"]]
        image = [rows.tolist() for rows in batch.layout.image]
        each = torch.tensor([[3, 1], [0, -1]])
        cases: list[tuple[Any, list[list[int]]]] = [
            ("image", image),
            ("last", [rows[-1:] for rows in own]),
            (4, [[rows[4]] for rows in own]),
            (-1, [rows[-1:] for rows in own]),
            ([5, 2, -2], [[rows[5], rows[2], rows[-2]] for rows in own]),
            (slice(2, 9, 3), [rows[2:9:3] for rows in own]),
            (torch.tensor([7]), [[rows[7]] for rows in own]),
            (each, [[own[0][3], own[0][1]], [own[1][0], own[1][-1]]]),
            # samples with different numbers of tokens
            ("prompt", own),
            ("text", [[at for at in rows if at not in held] for rows, held in zip(own, image, strict=True)]),
        ]
        for positions, expected in cases:
            _, cache = model.run_with_cache(batch, names=name, positions=positions)
            most = max(map(len, expected))
            for sample, rows in enumerate(expected):
                assert torch.equal(cache.samples(name)[sample], whole[sample, rows]), positions
                assert torch.equal(cache[name][sample, : len(rows)], whole[sample, rows])
                assert cache[name][sample, len(rows) :].isnan().all()
                assert cache.mask(name)[sample].tolist() == [at < len(rows) for at in range(most)]
            assert cache[name].shape[1] == most
        assert cache.positions == "text"
        _, cache = model.run_with_cache(batch, names=name)
        assert torch.equal(cache[name], whole)
        assert cache.positions is None
        with pytest.raises(InputError, match="was cached with all its rows, padding too; name positions"):
            cache.samples(name)


@torch.no_grad()
def test_positions_of_heads_and_patterns(llava: Subject) -> None:
    batch = llava.batches["left"]
    for name, axis in (("blocks.1.attn.hook_z", 1), ("blocks.1.attn.hook_pattern", 2), ("blocks.1.attn.hook_k", 1)):
        whole = by_hand(llava, name)
        _, cache = llava.model.run_with_cache(batch, names=name, positions="last")
        assert torch.equal(cache[name], whole.narrow(axis, whole.shape[axis] - 1, 1))


@torch.no_grad()
def test_image_positions_of_every_part(llava: Subject, qwen: Subject, blip: Subject) -> None:
    names = ["vision.hook_embed", "projector.hook_in", "projector.hook_out"]
    _, cache = llava.model.run_with_cache(llava.batches["left"], names=names, positions="image")
    assert torch.equal(cache["vision.hook_embed"], by_hand(llava, "vision.hook_embed")[:, 1:])  # without the class row
    assert torch.equal(cache["projector.hook_out"], by_hand(llava, "projector.hook_out"))
    _, cache = qwen.model.run_with_cache(qwen.batches["left"], names=names, positions="image")
    for name in names:  # by sample, though both lie in one sequence
        grids = [
            places.grids["vision" if name.endswith(("embed", "in")) else "projector"]
            for places in qwen.batches["left"].layout.places
        ]
        for found, grid in zip(cache.samples(name), grids, strict=True):
            assert torch.equal(found, by_hand(qwen, name)[grid.rows]), name  # type: ignore[union-attr]
    _, cache = blip.model.run_with_cache(blip.batches["left"], names=names, positions="image")
    assert torch.equal(cache["vision.hook_embed"], by_hand(blip, "vision.hook_embed")[:, 1:])
    assert torch.equal(cache["projector.hook_in"], by_hand(blip, "projector.hook_in")[:, 1:])
    assert torch.equal(cache["projector.hook_out"], by_hand(blip, "projector.hook_out"))


def test_activations_are_detached_and_go_where_they_are_asked(llava: Subject) -> None:
    logits, cache = llava.model.run_with_cache(llava.batches["left"], device="meta")
    assert logits.requires_grad
    assert logits.device.type == "cpu"
    assert {tensor.device.type for tensor in cache.values()} == {"meta"}
    _, cache = llava.model.run_with_cache(llava.batches["left"])
    assert not any(tensor.requires_grad for tensor in cache.values())


@torch.no_grad()
def test_shorthands_parts_and_negative_layers(subject: Subject) -> None:
    model = subject.model
    _, cache = model.run_with_cache(subject.batches["left"], names="*")
    depth = model.cfg.n_layers
    assert cache["resid_post", depth - 1] is cache[f"blocks.{depth - 1}.hook_resid_post"]
    assert cache["resid_post", -1] is cache["resid_post", depth - 1]
    assert cache["pattern", 0] is cache["blocks.0.attn.hook_pattern"]
    assert cache["post", 1, "mlp"] is cache["blocks.1.mlp.hook_post"]
    assert cache["scale", 1, "ln1"] is cache["blocks.1.ln1.hook_scale"]
    assert cache["logits"] is cache["hook_logits"]
    vision = cache.part("vision")
    assert vision["resid_pre", 0] is cache["vision.blocks.0.hook_resid_pre"]
    assert vision["z", -1] is cache[f"vision.blocks.{model.part('vision').cfg.n_layers - 1}.attn.hook_z"]
    assert vision["embed"] is cache["vision.hook_embed"]
    language = cache.part("language")
    assert list(language.keys()) == [name for name in cache if not name.startswith(("vision.", "projector."))]
    assert cache.part("projector")["hook_out"] is cache["projector.hook_out"]


@torch.no_grad()
def test_a_saved_cache_is_the_cache_again(subject: Subject, tmp_path: Path) -> None:
    model = subject.model
    for positions, names in (("all", "*"), ("last", "blocks.*.hook_resid_post")):
        _, cache = model.run_with_cache(subject.batches["left"], names=names, positions=positions)  # type: ignore[arg-type]
        cache.save(tmp_path / "cache.safetensors")
        again = ActivationCache.load(tmp_path / "cache.safetensors", model)
        assert list(again.keys()) == list(cache.keys())
        assert all(torch.equal(again[name], cache[name]) for name in cache)
        assert (again.axes, again.positions, again.has_batch_dim) == (cache.axes, cache.positions, True)
        assert torch.equal(again["resid_post", -1], cache["resid_post", -1])
    bare = ActivationCache.load(tmp_path / "cache.safetensors")
    with pytest.raises(
        InputError, match="Layer -1 counts from the end, but this cache was loaded without a model; pass model="
    ):
        bare["resid_post", -1]


@torch.no_grad()
def test_bfloat16_survives_the_file(llava: Subject, tmp_path: Path) -> None:
    cache = ActivationCache(
        {"hook_embed": torch.randn(2, 3, 4).bfloat16()}, None, axes={"hook_embed": "batch pos d_model"}
    )
    cache.save(tmp_path / "c.safetensors")
    again = ActivationCache.load(tmp_path / "c.safetensors")["hook_embed"]
    assert again.dtype == torch.bfloat16
    assert torch.equal(again, cache["hook_embed"])


def test_a_write_that_fails_leaves_the_old_file(
    llava: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cache.safetensors"
    ActivationCache({"hook_embed": torch.ones(1, 2, 3)}, None).save(path)
    before = path.read_bytes()

    def fail(tensors: Any, file: Any, metadata: Any) -> None:
        Path(file).write_bytes(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(tensor_files, "save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        ActivationCache({"hook_embed": torch.zeros(1, 2, 3)}, None).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_are_no_caches(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^There is no activation cache at .*none.safetensors\.$"):
        ActivationCache.load(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match=r"is a folder, not an activation cache\.$"):
        ActivationCache.load(tmp_path)
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(InputError, match=r"text.safetensors is no activation cache, or a damaged one: "):
        ActivationCache.load(tmp_path / "text.safetensors")
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(
        InputError, match=r"is no activation cache \(format None, expected 'mmlens.store.ActivationCache/2'\)"
    ):
        ActivationCache.load(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"Cannot write .*: the folder .*/missing does not exist; create it first\.$"):
        ActivationCache({}, None).save(tmp_path / "missing" / "c.safetensors")


def test_gathered_rows_against_indexing() -> None:
    pattern = torch.randn(2, 3, 5, 7)
    rows = [torch.tensor([[0, 1], [0, 2]]), torch.tensor([[1, 3], [1, 0]])]
    expected = torch.stack([pattern[0][:, [1, 2]], pattern[1][:, [3, 0]]])
    assert torch.equal(gather_samples(pattern, "batch head query key", rows), expected)
    packed = torch.randn(3, 6, 4)  # two samples in one sequence, one of two rows and one of three
    rows = [torch.tensor([[0, 5], [0, 1]]), torch.tensor([[0, 0], [0, 2], [0, 4]])]
    found = gather_samples(packed, "head query key", rows)
    assert torch.equal(found[0, :, :2], packed[:, [5, 1]])
    assert torch.equal(found[1], packed[:, [0, 2, 4]])
    assert found[0, :, 2].isnan().all()


def test_it_prints_its_size(llava: Subject) -> None:
    cache = ActivationCache({"hook_embed": torch.zeros(1, 256, 1024)}, None, positions="last")
    assert repr(cache) == "ActivationCache: 1 activations, 1.0 MiB, positions last"


def test_a_name_that_is_not_held_is_refused_with_the_nearest(llava: Subject) -> None:
    _, cache = llava.model.run_with_cache(llava.batches["left"], names="blocks.*.hook_resid_post")
    with pytest.raises(UnknownNameError) as close:
        cache["blocks.0.hook_resid_pst"]
    assert "it holds 3 activations. Nearest: blocks.0.hook_resid_post" in str(close.value)
    assert "are cached only when named" in str(close.value)
    with pytest.raises(UnknownNameError) as far:
        cache["zzz"]
    assert "Nearest" not in str(far.value)


@torch.no_grad()
def test_every_key_that_is_offered_opens_something(subject: Subject) -> None:
    _, cache = subject.model.run_with_cache(subject.batches["left"])
    keys = cache._ipython_key_completions_()
    assert ("resid_post", 1) in keys
    assert ("q", 1) in keys
    by_name = {name: cache[name] for name in cache.keys()}  # noqa: SIM118
    assert [key for key in keys if isinstance(key, str)] == list(by_name)
    for key in keys:
        if isinstance(key, tuple):
            assert any(cache[key] is tensor for name, tensor in by_name.items() if f"blocks.{key[1]}." in name)
    for offering in (subject.model.graph, subject.batches["left"]):
        assert all(offering[key] is not None for key in offering._ipython_key_completions_())
