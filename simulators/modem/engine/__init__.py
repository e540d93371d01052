"""The modem as it looks from its AT port."""
