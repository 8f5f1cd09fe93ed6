"""CMA-ES over unit coordinates, and a surrogate that learns; no models, no files."""
