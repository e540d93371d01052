"""The DNS proxy's sockets."""
