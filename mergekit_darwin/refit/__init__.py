"""A child whose layers do what its parents' layers do, on the parents' texts."""
