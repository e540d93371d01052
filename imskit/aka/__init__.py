"""Authentication and key agreement of 3GPP (TS 33.102), its algorithm sets (TS 35.206, TS 35.231), its use in HTTP
Digest (RFC 3310, RFC 4169) and in bootstrapping (TS 33.220)."""
