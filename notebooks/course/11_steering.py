# %% [markdown]
# # 11. Steering
#
# **75 minutes, level 3.** You will be able to turn an answer with a vector, to say what a random one does, and what it costs
# elsewhere.

# %%
import torch

import mmlens as mm

model = mm.lab.load()


def questions(kind, answer, scenes, n):
    """Pictures with a question of a kind, and with this answer if one is named."""
    pairs = []
    for scene in scenes:
        texts = [q.text for q in scene.questions if q.kind == kind and answer in (None, q.answer)]
        pairs += [(scene.image, texts[0])] if texts else []
    return pairs[:n]


train, held_out = mm.lab.scenes(60, seed=8, split="train"), mm.lab.scenes(60, seed=9)


def mean_state(answer, layer):
    """Mean state at the last position behind a block, over 30 questions with an answer."""
    pairs = questions("presence", answer, train, 30)
    batch = model.prepare([text for _, text in pairs], images=[image for image, _ in pairs])
    _, cache = model.run_with_cache(batch, names=f"blocks.{layer}.hook_resid_post")
    return cache["resid_post", layer][:, -1].mean(0)


vector = mm.steering.SteeringVector(mean_state("no", 2) - mean_state("yes", 2), "blocks.2.hook_resid_post")
vector

# %% [markdown]
# The simplest vector there is: the mean state before "no", minus that before "yes". Is it just the two words?
#
# **Exercise steering.1** (★★) What is its cosine with the unembedding of "no" minus that of "yes"?

# %%
### BEGIN SOLUTION
words = model.W_U[:, model.to_single_token("no")] - model.W_U[:, model.to_single_token("yes")]
answer = torch.cosine_similarity(vector.direction, words, dim=0)
### END SOLUTION
mm.lab.check("steering.1", answer, model=model)

# %% [markdown]
# ## Turning answers
#
# `mm.Steer(vector, alpha=2.0, positions=...)` adds twice the vector where the answer is about to be said.

# %%
where = mm.positions.last | mm.positions.generated
presence, colors = questions("presence", "yes", held_out, 10), questions("color", None, held_out, 10)


def answers(pairs, *interventions):
    """What is said to each question while interventions act."""
    with model.intervene(*interventions):
        return [model.answer(image, text) for image, text in pairs]


# %% [markdown]
# **Exercise steering.2** (★) How many of the ten held-out questions whose answer is yes are answered "no" with alpha 2?

# %%
### BEGIN SOLUTION
answer = answers(presence, mm.Steer(vector, alpha=2.0, positions=where)).count("no")
### END SOLUTION
mm.lab.check("steering.2", answer, model=model)

# %% [markdown]
# **Exercise steering.3** (★) And with a random direction of the same length, `vector.random(seed=0)`?

# %%
### BEGIN SOLUTION
answer = answers(presence, mm.Steer(vector.random(seed=0), alpha=2.0, positions=where)).count("no")
### END SOLUTION
mm.lab.check("steering.3", answer, model=model)

# %% [markdown]
# ## Without harm
#
# A vector strong enough to turn everything turns other answers too.
#
# **Exercise steering.4** (★★★) Make an `mm.Steer` that turns at least 8 of the ten answers and changes at most two of ten about
# colours.

# %%
### BEGIN SOLUTION
answer = mm.Steer(vector, alpha=2.25, positions=where)
### END SOLUTION
mm.lab.check("steering.4", answer, model=model)

# %%
plain = answers(colors)
for alpha in (1.0, 2.25, 4.0):
    steer = mm.Steer(vector, alpha=alpha, positions=where)
    turned, harmed = answers(presence, steer).count("no"), sum(a != b for a, b in zip(plain, answers(colors, steer)))
    print(f"alpha {alpha}: {turned} of 10 turned, {harmed} of 10 other answers changed")
