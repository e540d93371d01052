"""The terminal's side of GBA (TS 33.220): bootstrapping with the BSF, keys for servers (S7-GBA)."""
