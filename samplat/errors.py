"""The errors that samplat raises on purpose.

Every message says what was expected, what came, and what to do.
"""

from __future__ import annotations


class SamplatError(Exception):
    """Base of every error that samplat raises on purpose; the command line prints one line."""


class InputError(SamplatError):
    """A file, array, prompt or parameter from outside is not usable."""


class CheckpointError(SamplatError):
    """Weights are missing, damaged, untrusted or of another architecture."""


class PluginError(SamplatError):
    """A plugin is missing, broken, or collides with another one."""


class JobError(SamplatError):
    """A job directory cannot be used, or holds damaged results."""


class ExecutorError(JobError):
    """Who runs the tasks cannot do so any more, whichever job they are of."""
