"""Training of one of FLA's models, with FLA's kernels and with gla_tune's in their place."""
