"""Authentication and key agreement of 3GPP (TS 33.102, TS 35.206) and its use in HTTP Digest (RFC 3310, RFC 4169)."""
