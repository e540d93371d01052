"""A WIC inside the edge for each JSON client."""
