# %% [markdown]
# # 1. Look inside
#
# **45 minutes, level 1.** You will be able to name any state of a vision-language model, read it, and put another one in its
# place.
#
# Each exercise ends in `mm.lab.check(...)`, which holds your `answer` against the truth and says what is off. To look at
# another model, change the first line of the next cell.

# %%
import torch

import mmlens as mm

model = mm.lab.load()  # or mm.lab.load("narrator"), or mm.HookedMultimodal.from_pretrained(...)
scene = mm.lab.scene(seed=30)
scene.image.resize((240, 240))

# %% [markdown]
# ## Towers and points
#
# The model has three parts: a **vision** tower that turns patches of the picture into states, a **projector** that maps these
# into the language model's space, and the **language** model, which reads them among the words. Every state that modules hand
# on has a name, a *hook point*; the points form a graph.

# %%
print(model)
model.graph.select("vision.blocks.0.**")

# %% [markdown]
# **Exercise look.1** (★) How many points does the vision tower have? Every node of the graph says its `part`.

# %%
### BEGIN SOLUTION
answer = sum(node.part == "vision" for node in model.graph)
### END SOLUTION
mm.lab.check("look.1", answer, model=model)

# %% [markdown]
# **Exercise look.2** (★) What is the name of the point that holds the residual stream *behind* the language model's last block?

# %%
### BEGIN SOLUTION
answer = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
### END SOLUTION
mm.lab.check("look.2", answer, model=model)

# %% [markdown]
# ## A run, and a hook in it
#
# `prepare` makes a batch of a picture and a prompt; calling the model on it gives logits `[batch pos vocab]`. A **hook** is a
# function of a point's activation; what it returns goes on in its place.

# %%
batch = model.prepare("what color is the moon", images=scene.image)
logits = model(batch)
print(logits.shape, "->", model.to_string(logits[0, -1].argmax()))

# %% [markdown]
# **Exercise look.3** (★) What does the model answer first when the projector hands on nothing but zeros? The answer is a word.

# %%
### BEGIN SOLUTION
blind = model.run_with_hooks(
    batch, fwd_hooks=[("projector.hook_out", lambda features, hook: torch.zeros_like(features))]
)
answer = model.to_string(blind[0, -1].argmax())
### END SOLUTION
mm.lab.check("look.3", answer, model=model)

# %% [markdown]
# It still answers, and not at random: without eyes it says what questions like this one are mostly answered with. Keep that in
# mind whenever an answer is right.
#
# ## A cache
#
# `run_with_cache` keeps what passes at the points that you name. `batch.layout` knows which rows hold the picture and which
# text.

# %%
_, cache = model.run_with_cache(batch, names="blocks.*.hook_resid_pre")
print(batch.layout)
cache["resid_pre", 0].shape

# %% [markdown]
# **Exercise look.4** (★★) How long are the states of the residual stream in front of each block, on average over the *image's*
# rows? One number a layer.

# %%
### BEGIN SOLUTION
rows = batch.layout.image[0]
answer = [cache["resid_pre", layer][0, rows].norm(dim=-1).mean().item() for layer in range(model.cfg.n_layers)]
### END SOLUTION
mm.lab.check("look.4", answer, model=model)

# %% [markdown]
# Compare with the text's rows: what a unit of change means differs by a lot between picture and words, which is why vectors and
# noise are given relative to the states they are added to.
