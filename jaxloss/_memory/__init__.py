"""Evaluation in chunks and on meshes: the memory of one chunk, the gradients of all rows."""
