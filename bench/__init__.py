"""Figures beside established programs, on the same load in the same run; see README.md."""
