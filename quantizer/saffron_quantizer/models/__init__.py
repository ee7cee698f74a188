"""Language models as data, and the walk through one block by block."""
