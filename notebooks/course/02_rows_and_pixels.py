# %% [markdown]
# # 2. Rows and pixels
#
# **45 minutes, level 1.** You will be able to say which row of which tower shows which part of the picture, and to go back from
# rows to pixels, also where samples are padded.

# %%
import torch

import mmlens as mm

model = mm.lab.load()
scene = mm.lab.scene(seed=30)
moon = next(thing for thing in scene.objects if thing.shape == "moon")
batch = model.prepare("what color is the moon", images=scene.image)
print("moon in", moon.box, "of", scene.image.size)
batch.layout

# %% [markdown]
# The vision tower cuts the picture into patches. The projector makes an image token of each, and these stand in the prompt like
# words. A *row* is one position of a tower's sequence, counted from 0: its states are the rows of matrices `[pos d_model]`. The
# language model's sequence begins with text, so its rows of the picture are others than the numbers of the patches.
#
# **Exercise rows.1** (★) Which rows of the language model touch the moon? `batch.layout.patches(box=...)` goes from pixels to
# rows.

# %%
### BEGIN SOLUTION
answer = batch.layout.patches(box=moon.box)
### END SOLUTION
mm.lab.check("rows.1", answer, model=model)

# %% [markdown]
# **Exercise rows.2** (★) And back: which pixels does the 20th image token show (counted from 0)? Left, top, right, bottom.

# %%
### BEGIN SOLUTION
answer = batch.layout.boxes(batch.layout.image[0][[20]])[0]
### END SOLUTION
mm.lab.check("rows.2", answer, model=model)

# %% [markdown]
# ## Not every row shows as much of the moon
#
# `moon.mask` is True at the pixels of the moon. A box touches many patches that show hardly anything of it.
#
# **Exercise rows.3** (★★) Which row of the language model has the most of the moon's pixels?

# %%
### BEGIN SOLUTION
rows = batch.layout.patches(box=moon.box)
pixels = [
    int(moon.mask[top:bottom, left:right].sum()) for left, top, right, bottom in batch.layout.boxes(rows).int().tolist()
]
answer = rows[torch.tensor(pixels).argmax()]
### END SOLUTION
mm.lab.check("rows.3", answer, model=model)

# %% [markdown]
# ## Padding
#
# Prompts of different lengths share a batch by padding the shorter ones in front. Then a number alone does not name a row.

# %%
pair = model.prepare(["what color is the moon", "is there a red moon and a yellow house"], images=[scene.image] * 2)
print(pair["attention_mask"])

# %% [markdown]
# **Exercise rows.4** (★★) At which row does each of the two samples begin?

# %%
### BEGIN SOLUTION
answer = pair["attention_mask"].argmax(dim=1)
### END SOLUTION
mm.lab.check("rows.4", answer, model=model)

# %% [markdown]
# This is why positions are *rules* here: `mm.positions.object(moon)`, `"last"`, `mm.positions.image -
# mm.positions.object(moon)`. A rule is resolved for each sample, in each tower, with its own padding.

# %%
_, on_moon = model.run_with_cache(
    pair, names=["vision.blocks.0.hook_resid_post", "hook_embed"], positions=mm.positions.box(moon.box)
)
{name: tuple(states.shape) for name, states in on_moon.items()}
