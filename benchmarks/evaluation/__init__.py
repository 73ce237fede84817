"""Parts of the accuracy benchmark: objects and prompts, classical tools, zoom, sets, figures."""
