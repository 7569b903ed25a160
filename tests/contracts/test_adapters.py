"""Contract: adapters are what peft means by them: on, off, switched, several and merged, against peft and the merged twin."""

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import peft
import pytest
import torch

import mmlens as mm
from mmlens.core.errors import InputError, UnsupportedModelError
from mmlens.models.fingerprint import fingerprint
from mmlens.models.hooked import HookedMultimodal
from tests.conftest import Subject, bare_copy, rounded
from tests.families import FAMILIES
from tests.tiny import picture

TARGETS = ["q_proj", "v_proj", "down_proj"]
TOKENS = [13, 14]  # "the" and "image"


def lora(**options: Any) -> Any:
    return peft.LoraConfig(**{"r": 2, "lora_alpha": 4, "target_modules": TARGETS, **options})


#: A configuration of each kind of adapter. peft's names are looked up when they are needed: older versions lack some.
KINDS: dict[str, Callable[[], Any]] = {
    "lora": lora,
    "rslora": lambda: lora(use_rslora=True),
    "dora": lambda: lora(use_dora=True),
    "lora and modules_to_save": lambda: lora(modules_to_save=["multi_modal_projector"]),
    "lora and tokens": lambda: lora(trainable_token_indices=TOKENS),
    "lora of parameters": lambda: lora(target_modules=["q_proj"], target_parameters=["down_proj.weight"]),
    "tokens": lambda: peft.TrainableTokensConfig(token_indices=TOKENS, target_modules=["embed_tokens"]),
    "ia3": lambda: peft.IA3Config(target_modules=TARGETS, feedforward_modules=["down_proj"]),
    "loha": lambda: peft.LoHaConfig(r=2, alpha=4, target_modules=TARGETS),
    "lokr": lambda: peft.LoKrConfig(r=2, alpha=4, target_modules=TARGETS),
    "oft": lambda: peft.OFTConfig(oft_block_size=4, target_modules=TARGETS),
    "boft": lambda: peft.BOFTConfig(boft_block_size=4, target_modules=TARGETS),
    "vera": lambda: peft.VeraConfig(r=4, target_modules=["q_proj", "down_proj"]),
    "hra": lambda: peft.HRAConfig(r=2, target_modules=TARGETS),
    "fourierft": lambda: peft.FourierFTConfig(n_frequency=20, target_modules=TARGETS),
    "shira": lambda: peft.ShiraConfig(r=2, target_modules=TARGETS),
    "layer norms": lambda: peft.LNTuningConfig(target_modules=["input_layernorm"]),
    "road": lambda: peft.RoadConfig(target_modules=TARGETS, group_size=8),
    "hira": lambda: peft.HiraConfig(r=2, target_modules=TARGETS),
    "delora": lambda: peft.DeloraConfig(r=2, target_modules=TARGETS),
}
#: Kinds that scale or turn a weight: a row of it cannot be edited beneath them.
SCALING = {"dora", "ia3", "oft", "boft", "hra", "road", "hira"}
#: Kinds of which peft lets one act at a time.
ALONE = {"lora and modules_to_save", "lora and tokens", "tokens", "layer norms"}


@pytest.fixture(params=KINDS, autouse=False)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of adapter in turn."""
    try:
        KINDS[request.param]()
    except AttributeError as error:
        pytest.skip(f"this version of peft lacks it: {error}")
    return request.param


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's advice about configurations without a name, and about merging
        yield


def redrawn(model: Any, *names: str) -> Any:
    """A model whose adapters change it: trained ones, so to say, each its own way."""
    for number, name in enumerate(names):
        generator = torch.Generator().manual_seed(number)
        for path, parameter in model.named_parameters():
            if name in path.split("."):
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter.data = parameter.data + 0.2 * noise
    return model.eval()


def adapted(llava: Subject, kind: str, *names: str) -> Any:
    """The bare model with adapters of a kind; the first one acts."""
    torch.manual_seed(0)
    first, *others = names or ("one",)
    model = peft.get_peft_model(bare_copy(llava.model), KINDS[kind](), adapter_name=first)
    for name in others:
        model.add_adapter(name, KINDS[kind]())
    model.set_adapter(first)
    return redrawn(model, first, *others)


def hooked(llava: Subject, model: Any) -> HookedMultimodal:
    return HookedMultimodal.from_hf(model, llava.model.processor)


def merged(model: Any) -> Any:
    return copy.deepcopy(model).merge_and_unload()


def logits_of(llava: Subject, model: Any) -> torch.Tensor:
    return model(**llava.batches["left"], use_cache=False).logits


def weights(model: HookedMultimodal) -> dict[str, torch.Tensor]:
    """Everything that is read of a model's weights under TransformerLens's names."""
    stacked = ("W_E", "W_U", "b_U", "W_Q", "W_K", "W_V", "W_O", "W_in", "W_gate", "W_out")
    found = {name: getattr(model, name) for name in stacked}
    for layer, block in enumerate(model.blocks):
        assert block.attn is not None
        assert block.mlp is not None
        for name in ("b_Q", "b_K", "b_V", "b_O"):
            found[f"{layer}.{name}"] = getattr(block.attn, name)
        found[f"{layer}.b_in"], found[f"{layer}.b_out"] = block.mlp.b_in, block.mlp.b_out
    found["projector"] = model.part("projector").cfg.d_mlp * torch.ones(1)
    found["direction"] = model.tokens_to_residual_directions(TOKENS)
    return found


def state(model: Any) -> list[Any]:
    """Everything that peft switches, and the bits of every weight."""
    layers = [m for m in model.modules() if isinstance(getattr(type(m), "disable_adapters", None), property)]
    switched = [(type(m), m._disable_adapters, str(m._active_adapter), str(m.merged_adapters)) for m in layers]
    bits = [(p.requires_grad, p.dtype, p.detach().clone().view(torch.uint8).tolist()) for p in model.parameters()]
    noted = [vars(model).get(name) for name in ("active_adapter", "_adapters_disabled")]
    return [switched, bits, noted, str(getattr(getattr(model, "base_model", None), "active_adapter", None))]


@torch.no_grad()
def test_on_it_is_the_model_of_peft_and_reads_as_the_merged_twin(llava: Subject, kind: str) -> None:
    model = adapted(llava, kind)
    own, twin, batch = hooked(llava, model), hooked(llava, merged(model)), llava.batches["left"]
    logits, cache = own.run_with_cache(batch, names="*")
    plain = logits_of(llava, model)
    assert torch.equal(own(batch), plain)
    assert (plain - logits_of(llava, llava.bare)).abs().max() > 0.05, "the adapter changes nothing"
    torch.testing.assert_close(logits, plain, atol=rounded(own, batch), rtol=0)
    for name, weight in weights(twin).items():
        torch.testing.assert_close(weights(own)[name], weight, atol=0, rtol=0, msg=lambda text, n=name: f"{n}: {text}")
    expected = twin.run_with_cache(batch, names="*")[1]
    assert list(expected) == list(cache)
    for name, tensor in expected.items():
        torch.testing.assert_close(cache[name], tensor, atol=1e-4, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}")
    for layer, block in enumerate(own.blocks):
        assert block.mlp is not None
        written = cache["post", layer] @ block.mlp.W_out + block.mlp.b_out
        torch.testing.assert_close(written, cache[f"blocks.{layer}.hook_mlp_out"], atol=rounded(own, batch), rtol=1e-4)


@torch.no_grad()
def test_off_it_is_the_base_as_peft_switches_it_off_and_comes_back_exactly(llava: Subject, kind: str) -> None:
    model = adapted(llava, kind)
    own, batch, before = hooked(llava, model), llava.batches["left"], state(model)
    with model.disable_adapter():
        off = logits_of(llava, model)
    assert torch.equal(off, logits_of(llava, llava.bare))
    base = llava.model.run_with_cache(batch, names="*")[1]
    with own.adapter(None):
        assert own.active_adapters == ()
        assert torch.equal(own(batch), off)
        cache = own.run_with_cache(batch, names="*")[1]
        assert all(torch.equal(cache[name], base[name]) for name in base)
        for name, weight in weights(llava.model).items():
            assert torch.equal(weights(own)[name], weight), name
        assert fingerprint(own) == fingerprint(llava.model)
    assert own.active_adapters == ("one",)
    assert state(model) == before


@torch.no_grad()
def test_adapters_are_switched_nested_and_act_together_as_in_peft(llava: Subject, kind: str) -> None:
    model = adapted(llava, kind, "one", "two")
    own, twin, batch, before = hooked(llava, model), copy.deepcopy(model), llava.batches["left"], state(model)
    expected = {"one": logits_of(llava, twin)}
    twin.set_adapter("two")
    expected["two"] = logits_of(llava, twin)
    assert not torch.allclose(expected["one"], expected["two"], atol=1e-3)
    with own.adapter("two"):
        assert torch.equal(own(batch), expected["two"])
        assert own.active_adapters == ("two",)
        torch.testing.assert_close(weights(own), weights(hooked(llava, merged(twin))), atol=0, rtol=0)
        with own.adapter(None), own.adapter("one"):
            assert torch.equal(own(batch), expected["one"])
        assert torch.equal(own(batch), expected["two"])
    assert state(model) == before
    if kind not in ALONE:
        twin.base_model.set_adapter(["one", "two"])
        with own.adapter("one", "two"):
            assert torch.equal(own(batch), logits_of(llava, twin))
            assert own.active_adapters == ("one", "two")
            both = weights(hooked(llava, merged(twin)))
            torch.testing.assert_close(weights(own), both, atol=0, rtol=0)
        assert state(model) == before


@torch.no_grad()
def test_merged_adapters_are_taken_out_and_put_back_to_the_bit(llava: Subject, kind: str) -> None:
    model = adapted(llava, kind, "one", "two")
    twin = copy.deepcopy(model)
    model.merge_adapter()
    own, batch, before, on = hooked(llava, model), llava.batches["left"], state(model), logits_of(llava, model)
    assert own.active_adapters == ("one",)
    assert fingerprint(own) == fingerprint(hooked(llava, merged(twin))) or kind == "lora and modules_to_save"
    torch.testing.assert_close(weights(own), weights(hooked(llava, merged(twin))), atol=0, rtol=0)
    other = copy.deepcopy(model)
    with other.disable_adapter():
        off = logits_of(llava, other)
    twin.set_adapter("two")
    with own.adapter(None):
        assert torch.equal(own(batch), off)
        assert own.active_adapters == ()
        with own.adapter("two"):
            torch.testing.assert_close(own(batch), logits_of(llava, twin), atol=1e-4, rtol=0)
    assert state(model) == before
    assert torch.equal(own(batch), on)
    model.unmerge_adapter()  # peft finds everything that it needs
    torch.testing.assert_close(logits_of(llava, model), on, atol=1e-4, rtol=0)


@pytest.mark.parametrize("is_merged", [False, True])
@torch.no_grad()
def test_zeroed_rows_are_ablated_neurons(llava: Subject, kind: str, is_merged: bool) -> None:
    model = adapted(llava, kind)
    if is_merged:
        model.merge_adapter()
    own, batch, before, units = hooked(llava, model), llava.batches["left"], state(model), ["L0.u3", "L2.u7"]
    plain = own(batch)
    with own.intervene(mm.Ablate(units)):
        ablated = own(batch)
    assert (ablated - plain).abs().max() > 1e-2
    edit = mm.edits.zero_neurons(own, units)
    if kind in SCALING and not is_merged:
        message = (
            r"^W_out behind blocks\.0\.mlp\.hook_post is changed by the adapter one \(\w+\.\w+\), which does not add "
        )
        with pytest.raises(InputError, match=message), own.edited(edit):
            pass
        with own.adapter(None), own.edited(mm.edits.zero_neurons(own, units)):
            assert not own.blocks[0].mlp.W_out[3].any()  # type: ignore[union-attr]
    else:
        with own.edited(edit):
            torch.testing.assert_close(own(batch), ablated, atol=rounded(own, batch), rtol=0)
            rows = [own.blocks[0].mlp.W_out[3], own.blocks[2].mlp.W_out[7]]  # type: ignore[union-attr]
            assert max(float(row.abs().max()) for row in rows) < 1e-6
    assert state(model) == before
    assert torch.equal(own(batch), plain)


@torch.no_grad()
def test_every_linear_of_every_tower_may_be_adapted(subject: Subject) -> None:
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", init_lora_weights=False)
    model = peft.get_peft_model(bare_copy(subject.model), config, adapter_name="one").eval()
    own, twin, batch = hooked(subject, model), hooked(subject, merged(model)), subject.batches["left"]
    on = logits_of(subject, model)
    assert torch.equal(own(batch), on)
    assert not torch.allclose(on, logits_of(subject, subject.bare), atol=0.1)
    with own.adapter(None):
        assert torch.equal(own(batch), logits_of(subject, subject.bare))
    cache, expected = (each.run_with_cache(batch, names="*")[1] for each in (own, twin))
    for name, tensor in expected.items():
        torch.testing.assert_close(cache[name], tensor, atol=1e-4, rtol=1e-4, msg=lambda text, n=name: f"{n}: {text}")
    for block, other in zip(own.part("vision").blocks, twin.part("vision").blocks, strict=True):
        assert torch.equal(block.attn.W_O, other.attn.W_O)  # type: ignore[union-attr]
        assert torch.equal(block.mlp.W_out, other.mlp.W_out)  # type: ignore[union-attr]


# -- what they are used with ---------------------------------------------------------------------------------------------


@torch.no_grad()
def test_points_in_a_copied_module_follow_the_copy_that_acts(llava: Subject) -> None:
    """peft keeps a projector for each adapter: a hook is on the one that runs, whoever switched."""
    model = adapted(llava, "lora and modules_to_save")
    own, batch = hooked(llava, model), llava.batches["left"]
    own(batch)  # LLaVA asks for hidden states, so the first forward installs Hugging Face's own recorders
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    silenced = [("projector.mlp.hook_post", lambda x, hook: 0 * x)]
    expected = {
        "on": hooked(llava, merged(model)).run_with_hooks(batch, fwd_hooks=silenced),
        "off": llava.model.run_with_hooks(batch, fwd_hooks=silenced),
    }
    torch.testing.assert_close(
        own.run_with_hooks(batch, fwd_hooks=silenced), expected["on"], atol=rounded(own, batch), rtol=0
    )
    with model.disable_adapter():
        assert torch.equal(own.run_with_hooks(batch, fwd_hooks=silenced), expected["off"])
    with own.hooks(silenced):
        on = own(batch)
        with own.adapter(None):
            assert torch.equal(own(batch), expected["off"])
        assert torch.equal(own(batch), on)
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == hooks


@torch.no_grad()
def test_states_collected_as_the_base_are_those_of_the_base(llava: Subject) -> None:
    model = adapted(llava, "lora and modules_to_save")
    own, data = hooked(llava, model), [{"image": picture(seed), "text": "describe the image"} for seed in range(3)]
    options = {"at": "blocks.1.hook_resid_post", "positions": "last", "progress": False}
    with own.adapter(None):
        off = mm.collect(own, data, **options).at().values
    assert torch.equal(off, mm.collect(llava.model, data, **options).at().values)
    assert not torch.equal(off, mm.collect(own, data, **options).at().values)


@pytest.mark.parametrize("kind", ["lora", "dora", "loha", "lokr", "oft"])
@torch.no_grad()
def test_neuron_scores_are_those_of_the_merged_twin(llava: Subject, kind: str) -> None:
    model, batch = adapted(llava, kind), llava.batches["left"]
    scores = [
        mm.find_neurons(m, batch, token="red").scores for m in (hooked(llava, model), hooked(llava, merged(model)))
    ]
    torch.testing.assert_close(*scores, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_adapters_of_transformers_are_known_also_if_they_come_later(llava: Subject) -> None:
    model = bare_copy(llava.model)
    own, batch = hooked(llava, model), llava.batches["left"]
    assert own.adapters == ()
    model.add_adapter(lora(), "late")
    on, twin = logits_of(llava, redrawn(model, "late")), copy.deepcopy(model)
    assert (own.adapters, own.active_adapters) == (("late",), ("late",))
    logits, cache = own.run_with_cache(batch, names="blocks.*.mlp.hook_post")
    assert torch.equal(logits, on)
    torch.testing.assert_close(
        (own.blocks[1].mlp.W_out, cache["post", 1]),  # type: ignore[union-attr]
        _written(twin, llava),
        atol=1e-6,
        rtol=1e-5,
    )
    with own.adapter(None):
        assert torch.equal(own(batch), logits_of(llava, llava.bare))
    model.disable_adapters()
    assert torch.equal(own(batch), logits_of(llava, llava.bare))
    assert own.active_adapters == ()


def _written(model: Any, llava: Subject) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight and the input of a down projection, by hand."""
    down, seen = model.model.language_model.layers[1].mlp.down_proj, []
    handle = down.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    logits_of(llava, model)
    handle.remove()
    weight = down.base_layer.weight + 2.0 * down.lora_B["late"].weight @ down.lora_A["late"].weight
    return weight.T, seen[0]


@torch.no_grad()
def test_adapted_experts_are_switched() -> None:
    tiny = next(tiny for tiny in FAMILIES if tiny.name == "qwen3_vl_moe")
    plain = tiny.make()
    batch = plain.prepare("describe the image", images=picture(0, *tiny.sizes[0]))
    base = plain(batch)
    config = lora(target_modules=["q_proj"], target_parameters=["experts.down_proj", "experts.gate_up_proj"])
    model = redrawn(peft.get_peft_model(bare_copy(plain), config, adapter_name="one"), "one")
    own = HookedMultimodal.from_hf(model, plain.processor)
    on, before = model(**batch, use_cache=False).logits, state(model)
    assert not torch.allclose(on, base, atol=1e-2)
    assert torch.equal(own(batch), on)
    with own.adapter(None):
        assert torch.equal(own(batch), base)
    model.merge_adapter()
    merged_state = state(model)
    with own.adapter(None):
        torch.testing.assert_close(own(batch), base, atol=1e-4, rtol=0)
    assert state(model) == merged_state
    model.unmerge_adapter()
    assert [entry[0] for entry in state(model)[0]] == [entry[0] for entry in before[0]]


@torch.no_grad()
def test_contexts_of_adapters_may_be_closed_in_any_order(llava: Subject) -> None:
    model = adapted(llava, "lora", "one", "two")
    own, batch, before = hooked(llava, model), llava.batches["left"], state(model)
    base, on = logits_of(llava, llava.bare), own(batch)
    for merge in (False, True):
        first, second = own.adapter("two"), own.adapter(None)
        first.__enter__()
        two = own(batch)
        second.__enter__()
        first.__exit__(None, None, None)
        torch.testing.assert_close(own(batch), base, atol=1e-5 if merge else 0, rtol=0)
        second.__exit__(None, None, None)
        assert state(model) == before
        assert torch.equal(own(batch), on)
        assert not torch.allclose(two, on, atol=1e-2)
        model.merge_adapter()
        before, on = state(model), own(batch)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@torch.no_grad()
def test_adapters_are_as_they_were_after_an_exception(llava: Subject, error: type[BaseException]) -> None:
    model = adapted(llava, "lora and modules_to_save")
    model.merge_adapter()
    own, before = hooked(llava, model), state(model)
    with pytest.raises(error, match="inside"), own.adapter(None):
        raise error("inside")
    assert state(model) == before


@torch.no_grad()
def test_edits_stay_in_force_over_a_switch(llava: Subject) -> None:
    """Under LoRA an edit adds to the row that acts, whatever acts; merged weights are taken out beneath it."""
    for merge in (False, True):
        model = adapted(llava, "lora")
        if merge:
            model.merge_adapter()
        own, batch, before = hooked(llava, model), llava.batches["left"], state(model)
        edit = mm.edits.noise_neurons(own, ["L0.u3", "L2.u7"], sigma=0.5, seed=0)
        rows = {}
        for name in ("one", None):
            with own.adapter(name):
                rows[name] = own.blocks[2].mlp.W_out[7] + edit.deltas[1]  # type: ignore[union-attr]
        with own.edited(edit):
            inside = own(batch)
            with own.adapter(None):
                torch.testing.assert_close(own.blocks[2].mlp.W_out[7], rows[None], atol=1e-6, rtol=0)  # type: ignore[union-attr]
            assert torch.equal(own(batch), inside)
            torch.testing.assert_close(own.blocks[2].mlp.W_out[7], rows["one"], atol=1e-6, rtol=0)  # type: ignore[union-attr]
        assert state(model) == before


def test_switches_that_edits_would_not_survive_are_refused(llava: Subject) -> None:
    model = adapted(llava, "dora")
    own = hooked(llava, model)
    with own.adapter(None):
        own.apply(mm.edits.zero_neurons(own, "L0.u3"))
    before = state(model)
    with (
        pytest.raises(
            InputError, match=r"adapter one \(lora\.Linear\), which does not add to the weight.*with Edit\(zero"
        ),
        own.adapter("one"),
    ):
        pass
    assert state(model) == before
    copied = adapted(llava, "lora and modules_to_save")
    own = hooked(llava, copied)
    with (
        own.edited(mm.edits.zero_neurons(own, "projector.u3")),
        pytest.raises(
            InputError, match=r"An edit is in force in a module of which adapters have copies \(modules_to_save\)"
        ),
        own.adapter(None),
    ):
        pass


def test_what_cannot_be_is_refused_by_name(llava: Subject) -> None:
    model = adapted(llava, "lora and modules_to_save", "one", "two")
    own = hooked(llava, model)
    for names, message in (
        (("tow",), r"^The model holds no adapter 'tow'; it holds one, two\. Nearest: two\. None stands for the base"),
        (("one", None), r"^adapter\(\) takes the names of adapters, or None for the base model\.$"),
        ((), r"^adapter\(\) takes the names of adapters"),
        (("one", "two"), r"^The adapters one, two each bring a copy of the same module \(ModulesToSaveWrapper\)"),
    ):
        with pytest.raises(InputError, match=message), own.adapter(*names):
            pass
    biased = redrawn(peft.get_peft_model(bare_copy(llava.model), lora(lora_bias=True), adapter_name="one"), "one")
    message = r"^mlp\.down_proj is changed by the adapter one \(lora\.Linear\), which peft cannot merge into a weight"
    with pytest.raises(UnsupportedModelError, match=message):
        hooked(llava, biased).W_out  # noqa: B018
    prompts = peft.get_peft_model(
        bare_copy(llava.model), peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    )
    with pytest.raises(UnsupportedModelError, match=r"^The adapters 'default' \(PROMPT_TUNING\) learn a prompt"):
        hooked(llava, prompts)


@torch.no_grad()
def test_weights_in_half_precision_are_those_of_the_merge(llava: Subject) -> None:
    for kind in ("lora", "dora", "loha"):
        model = adapted(llava, kind).to(torch.bfloat16)
        torch.testing.assert_close(weights(hooked(llava, model)), weights(hooked(llava, merged(model))), atol=0, rtol=0)


def test_the_lab_s_tunes_share_one_copy_of_the_weights() -> None:
    tuned, plain = mm.lab.load_tuned(), mm.lab.load()
    assert fingerprint(tuned) == fingerprint(plain)
    assert tuned.active_adapters == ()
    with tuned.adapter("place"), tuned.adapter("mood"):
        assert tuned.active_adapters == ("mood",)
