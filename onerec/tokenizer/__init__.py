"""From what items say to semantic IDs and the tree of legal codes."""
