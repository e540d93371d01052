"""``imsbridge doctor``: everything that can be wrong on this device, one line each, with the cure."""

from imsbridge.doctor.command import register

__all__ = ["register"]
