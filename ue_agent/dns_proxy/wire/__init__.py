"""DNS messages as bytes: read just enough to match, cache and answer; never re-encode what is forwarded."""
