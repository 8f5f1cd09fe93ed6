"""A report and a genome in, a row a tensor out."""
