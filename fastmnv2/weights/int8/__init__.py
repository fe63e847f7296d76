"""8-bit weights: as they are held and checked, and how they are made from float ones."""
