"""The pseudo-terminal."""
