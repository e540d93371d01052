"""The security token that carries a web log-in's IMS identities to the eP-CSCF (TS 24.371 annex A.3.2, RFC 8898)."""
