"""The narrator's world: scenes of the lab with priors, facts and stories, and everything that can be said of them."""
