# %% [markdown]
# # 10. Shift
#
# **60 minutes, level 3.** You will be able to say what fine-tuning did to a model's states, and whether one vector says it.

# %%
import torch

import mmlens as mm

model = mm.lab.load_tuned()  # the base model with three fine-tunes; none acts until it is asked for
scenes = mm.lab.scenes(24, seed=4)
print(model.adapters)


def states(scenes):
    """States at the nouns of shapes, by scene and noun."""
    at = "blocks.4.hook_resid_post"
    kept = mm.collect(model, scenes, at=at, token=mm.lab.SHAPES, batch_size=24, dtype="float32", progress=False).at()
    return dict(zip(zip(kept.keys, kept.tokens), kept.values))


base, tuned = states(scenes), {}
for style in model.adapters:
    with model.adapter(style):
        print(style, "->", model.caption(scenes[1].image))
        tuned[style] = states(scenes)


def shifts(style):
    """Base states and their shifts, `[state d_model]`, where base and fine-tune name the same thing."""
    keys = [key for key in base if key in tuned[style]]
    return torch.stack([base[key] for key in keys]), torch.stack([tuned[style][key] - base[key] for key in keys])


# %% [markdown]
# A *shift* is what fine-tuning adds to one state: the fine-tune's state minus the base's, at the same noun about the same scene.
# `shifts("place")` gives the base states and their shifts by the fine-tune "place", whose captions begin with the ground.
#
# **Exercise shift.1** (★★) How long is the mean shift by "place", beside the mean length of the base states (one number: the
# first over the second)?

# %%
### BEGIN SOLUTION
start, shift = shifts("place")
answer = shift.mean(0).norm() / start.norm(dim=1).mean()
### END SOLUTION
mm.lab.check("shift.1", answer)

# %% [markdown]
# **Exercise shift.2** (★) Do two fine-tunes shift the same way? The cosine of the mean shifts by "place" and "mood".

# %%
### BEGIN SOLUTION
answer = torch.cosine_similarity(shifts("place")[1].mean(0), shifts("mood")[1].mean(0), dim=0)
### END SOLUTION
mm.lab.check("shift.2", answer)

# %% [markdown]
# Much of what fine-tunes do is the same for all of them: shorter captions, another opening. A control of one fine-tune is
# another.
#
# **Exercise shift.3** (★★) How alike are the shifts of single states: the mean cosine of each with the mean shift, by "place"?

# %%
### BEGIN SOLUTION
_, shift = shifts("place")
answer = torch.cosine_similarity(shift, shift.mean(0)[None]).mean()
### END SOLUTION
mm.lab.check("shift.3", answer)

# %% [markdown]
# **Exercise shift.4** (★★★) Take the mean shift of the first 10 pairs. How much nearer does it bring the *other* base states to
# the tuned ones: 1 - mean distance with it / mean distance without?

# %%
### BEGIN SOLUTION
_, shift = shifts("place")
rest = shift[10:]
answer = 1 - (rest - shift[:10].mean(0)).norm(dim=1).mean() / rest.norm(dim=1).mean()
### END SOLUTION
mm.lab.check("shift.4", answer)

# %% [markdown]
# On the states that it was made of the same vector does far better. Whoever reports that figure reports the fit, not the
# finding.
