"""The main job in one call, and what it says of each noun of a caption."""
