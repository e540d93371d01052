"""What a JSON client and the edge say to each other."""
