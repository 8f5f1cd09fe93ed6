"""darwin_v6 inside mergekit."""
