"""Where data come from: files of one's own, published archives, and the built-in world."""
