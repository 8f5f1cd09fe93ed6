"""A child in, a verdict out."""
