"""The TURN proxy's sockets."""
