"""The conference server of the operator: focus and mixer (TS 24.147, TS 23.218 MRFC and MRFP)."""
