# %% [markdown]
# # 5. Attention and knock-outs
#
# **60 minutes, level 2.** You will be able to tell where a head looks from what it brings, and to ask what an answer *needs*.

# %%
import mmlens as mm

model = mm.lab.load()
scene = mm.lab.scene(seed=30)
moon = next(thing for thing in scene.objects if thing.shape == "moon")
batch = model.prepare("what color is the moon", images=scene.image)
rows = batch.layout.patches(box=moon.box)
_, cache = model.run_with_cache(batch, names="blocks.*.attn.hook_pattern")
cache["pattern", 2].shape  # [batch head query key]

# %% [markdown]
# **Exercise attention.1** (★) Which share of its attention does the last position give to the moon's rows in layer 2, as a mean
# over heads?

# %%
### BEGIN SOLUTION
answer = cache["pattern", 2][0, :, -1][:, rows].sum(-1).mean()
### END SOLUTION
mm.lab.check("attention.1", answer, model=model)

# %% [markdown]
# **Exercise attention.2** (★) Layer 0 looks at the moon already: which of its heads give more than half of the last position's
# attention to it?

# %%
### BEGIN SOLUTION
answer = (cache["pattern", 0][0, :, -1][:, rows].sum(-1) > 0.5).nonzero().flatten()
### END SOLUTION
mm.lab.check("attention.2", answer, model=model)

# %% [markdown]
# ## Is the look needed?
#
# A **knock-out** takes a look away: the last position cannot attend to the moon's rows in some layers, and what it attends to
# instead shares the weight (Geva et al., EMNLP 2023). `mm.KnockOut(queries, keys, layers=...)` is an intervention.

# %%
lead = mm.metrics.logit_difference("red", "blue").on(model)
whole = lead(model(batch)[:, -1]).item()


def cut(layer):
    """The change of the lead of "red" without the last position's look at the moon in one layer."""
    with model.intervene(mm.KnockOut("last", mm.positions.box(moon.box), layers=[layer])):
        return lead(model(batch)[:, -1]).item() - whole


# %% [markdown]
# **Exercise attention.3** (★★) What does the cut in layer 0 change?

# %%
### BEGIN SOLUTION
answer = cut(0)
### END SOLUTION
mm.lab.check("attention.3", answer, model=model)

# %% [markdown]
# **Exercise attention.4** (★★) In which layer does the same cut cost the most?

# %%
### BEGIN SOLUTION
answer = min(range(model.cfg.n_layers), key=cut)
### END SOLUTION
mm.lab.check("attention.4", answer, model=model)

# %% [markdown]
# A head of layer 0 stares at the moon and nothing depends on it; layer 2 does the work. A map of attention alone would have
# shown both in the same colours.
