"""Hook points, how they attach to real modules, and the graph they form. Knows no model family."""
