# %% [markdown]
# # 7. Circuits
#
# **75 minutes, level 3.** You will be able to say which heads carry an answer and by which way, in models whose way is known,
# so that you can tell when a method is wrong.

# %%

import mmlens as mm

planted = mm.lab.planted("question_flow", seed=3)  # weights set by hand: what carries the colour is known
model = mm.HookedMultimodal.from_hf(planted.model, planted.processor)
clean = model.prepare(planted.prompt, images=planted.image())
other = model.prepare(planted.prompt, images=planted.image(present=False))  # the patch is black
metric = mm.metrics.logit_difference(planted.truth.word, planted.truth.default_word)
print(model.answer(planted.image(), planted.prompt), model.answer(planted.image(present=False), planted.prompt))

# %% [markdown]
# **Exercise circuits.1** (★★) Which heads carry the colour to the answer? Patch each head's z, at all positions. Heads are named
# as they print: "L1.h0" is head 0 of layer 1.

# %%
### BEGIN SOLUTION
sweep = mm.patch(
    model, clean, other, at="blocks.*.attn.hook_z", units="head", positions="all", metric=metric, progress=False
)
answer = [unit for cell in sweep.cells(2) for unit in cell.units]
### END SOLUTION
mm.lab.check("circuits.1", answer)

# %% [markdown]
# ## Which way?
#
# Two heads in two layers: either both look at the picture, or one brings the colour to some word, and the other reads it there.
#
# **Exercise circuits.2** (★★) `mm.KnockOut(queries, keys)` keeps some rows from looking at others, in all layers. By how much
# does the lead of the answer ("red" over "black") change when the *last position* cannot look at the picture?

# %%
### BEGIN SOLUTION
lead = metric.on(model)
with model.intervene(mm.KnockOut("last", "image")):
    after = lead(model(clean)[:, -1])
answer = after - lead(model(clean)[:, -1])
### END SOLUTION
mm.lab.check("circuits.2", answer)

# %% [markdown]
# **Exercise circuits.3** (★★) And in `mm.lab.planted("direct_flow", seed=3)`? Say `"picture to last position"` or `"picture to
# question to last position"`.

# %%
### BEGIN SOLUTION
direct = mm.lab.planted("direct_flow", seed=3)
hooked = mm.HookedMultimodal.from_hf(direct.model, direct.processor)
batch = hooked.prepare(direct.prompt, images=direct.image())
with hooked.intervene(mm.KnockOut("last", "image")):
    word = hooked.to_string(hooked(batch)[0, -1].argmax())
answer = "picture to question to last position" if word == direct.truth.word else "picture to last position"
### END SOLUTION
mm.lab.check("circuits.3", answer)

# %% [markdown]
# **Exercise circuits.4** (★★★) Back to the first model. Which share of the gap does its first head bring back, its clean z
# patched at the *question's word* alone?

# %%
### BEGIN SOLUTION
head = min(planted.truth.route, key=lambda hop: hop.layer)
sweep = mm.patch(
    model,
    clean,
    other,
    at=f"blocks.{head.layer}.attn.hook_z",
    units=[mm.Head(head.layer, head.head)],
    positions=mm.positions.word(planted.prompt),
    metric=metric,
    progress=False,
)
answer = sweep.effect.flatten() / (sweep.clean - sweep.corrupted)
### END SOLUTION
mm.lab.check("circuits.4", answer)

# %% [markdown]
# A circuit is a graph: its nodes are parts of the model (heads, or the attention of a layer), an edge is what one writes and
# another reads. `mm.find_circuit` scores all edges at once; here is what it finds where the truth is known.

# %%
mm.find_circuit(model, (clean, other), metric=metric, nodes="attention", progress=False).strongest(6)
