"""STUN and TURN state machines, without I/O."""
