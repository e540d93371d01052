"""STUN and TURN messages: bytes to values and back (RFC 8489, RFC 8656)."""
