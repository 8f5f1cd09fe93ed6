"""Pictures of reports; each module draws one kind, with matplotlib's Agg canvas."""
