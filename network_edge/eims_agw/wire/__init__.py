"""The NG protocol as octets."""
