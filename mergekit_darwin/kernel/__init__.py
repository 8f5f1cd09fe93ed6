"""Numbers: tensors in, tensor out; no names, no files."""
