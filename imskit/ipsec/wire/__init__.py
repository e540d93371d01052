"""ESP packets, IP headers, netlink messages: bytes to values and back."""
