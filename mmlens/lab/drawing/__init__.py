"""How the lab world is drawn."""
