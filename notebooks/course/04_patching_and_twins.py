# %% [markdown]
# # 4. Patching and twins
#
# **60 minutes, level 2.** You will be able to say where in the model a colour stands at which depth, and to read what a patch
# says and what it does not.

# %%
import mmlens as mm

model = mm.lab.load()
scene = mm.lab.scene(seed=30)
number = [thing.shape for thing in scene.objects].index("moon")
moon, twin = scene.objects[number], scene.twin(object=number, color="blue")
clean = model.prepare("what color is the moon", images=scene.image)
corrupted = mm.corrupt.twin(model, clean, [twin.image])
metric = mm.metrics.logit_difference("red", "blue")
twin.image.resize((240, 240))

# %% [markdown]
# The twin differs in nothing but the moon's colour. Whatever differs between the two runs is about this colour.
#
# **Exercise patching.1** (★) How wide is the *gap* between the runs: the lead of "red" over "blue" about the red moon, minus
# the same about the blue one, in logits? The lead of a word is its logit at the last position minus the other's.

# %%
### BEGIN SOLUTION
lead = metric.on(model)
answer = lead(model(clean)[:, -1]) - lead(model(corrupted)[:, -1])
### END SOLUTION
mm.lab.check("patching.1", answer, model=model)

# %% [markdown]
# ## Where does the colour stand?
#
# `mm.patch` puts states of the clean run into the run about the blue moon, one place at a time, and says what changes.
#
# **Exercise patching.2** (★) What do the clean states at the moon's patches (`mm.positions.box(moon.box)`), in front of layer
# 1, bring back of it, in logits? All patches of the moon at once.

# %%
### BEGIN SOLUTION
at = mm.positions.box(moon.box)
sweep = mm.patch(model, clean, corrupted, at="blocks.1.hook_resid_pre", positions=at, metric=metric, progress=False)
answer = sweep.effect.sum()
### END SOLUTION
mm.lab.check("patching.2", answer, model=model)

# %% [markdown]
# **Exercise patching.3** (★★) In front of which layer does the *last position alone* first bring back more than half of the
# gap?

# %%
### BEGIN SOLUTION
sweep = mm.patch(model, clean, corrupted, at="blocks.*.hook_resid_pre", positions="last", metric=metric, progress=False)
gap = sweep.clean - sweep.corrupted
answer = int((sweep.effect.flatten() > gap / 2).nonzero()[0])
### END SOLUTION
mm.lab.check("patching.3", answer, model=model)

# %% [markdown]
# ## Together is not one by one
#
# The layer before that one moves the colour. Its heads 2, 3 and 4 each bring back a little when patched alone at the last
# position.
#
# **Exercise patching.4** (★★★) What do the three bring back *together*, in logits? A head's *z* is what it has gathered from the
# rows that it looks at, in front of its output weights. Write one hook on `blocks.2.attn.hook_z` (`[batch pos head d_head]`) that
# puts the clean z of all three in at the last position.

# %%
### BEGIN SOLUTION
_, cache = model.run_with_cache(clean, names="blocks.2.attn.hook_z")


def three_heads(z, hook):
    z = z.clone()
    z[:, -1, [2, 3, 4]] = cache["z", 2][:, -1, [2, 3, 4]]
    return z


patched = model.run_with_hooks(corrupted, fwd_hooks=[("blocks.2.attn.hook_z", three_heads)])
answer = metric.on(model)(patched[:, -1]) - metric.on(model)(model(corrupted)[:, -1])
### END SOLUTION
mm.lab.check("patching.4", answer, model=model)

# %% [markdown]
# Twice the sum of the three: behind a softmax, and a norm, what each can do alone says little about what they do together.
