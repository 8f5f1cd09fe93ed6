"""Two parents in, a report out."""
