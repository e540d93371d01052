"""Which web identity owns which IMS identities: accounts, log-in by password, ranges of identities."""
