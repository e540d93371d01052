"""``imsbridge card …``: a module a sub-command, and what they share."""
