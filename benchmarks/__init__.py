"""Measurements of samplat: run them as scripts or as modules from the repository's root."""
