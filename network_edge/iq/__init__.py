"""Iq: the eP-CSCF's control of its media gateways (TS 23.228 annex U, TS 29.334 stage 2)."""
