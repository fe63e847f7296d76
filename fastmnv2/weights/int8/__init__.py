"""8-bit weights: representation, checks, and quantisation of float weights."""
