"""Back ends: they put associations to work on this machine."""
