"""Volumes: medical and microscopy stacks, in their own space.

Nothing heavy is imported here: `samplat --help` loads this module.
"""
