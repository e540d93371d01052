"""A modem as a card reader: one AT command after the other, and what they are used for."""
