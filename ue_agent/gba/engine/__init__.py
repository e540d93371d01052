"""Bootstrapping as a state machine."""
