"""Octets and lines of a modem's AT port to values and back."""
