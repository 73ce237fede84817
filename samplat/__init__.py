"""samplat: Segment Anything as a platform."""

from samplat.errors import InputError, SamplatError

__all__ = ["InputError", "SamplatError"]
