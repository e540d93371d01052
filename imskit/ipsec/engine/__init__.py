"""The security association database: look-ups, replay, what is dropped and why."""
