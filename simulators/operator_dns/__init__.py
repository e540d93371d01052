"""The operator's name server, for labs and tests."""
