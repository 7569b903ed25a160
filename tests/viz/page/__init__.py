"""The viewer: what packs hold, how they are written, and what a browser shows of them."""
