"""A database of people: their embeddings in one file, search among them, thresholds with stated error rates."""
