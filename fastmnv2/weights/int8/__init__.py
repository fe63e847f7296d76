"""8-bit weights: their representation, their checks, and how they are made from float weights."""
