"""The gateway's state machines: transactions of the control, circuit breakers of the media."""
