"""State machines of the eP-CSCF: no I/O, no clock."""
