"""Controllers, and the stores where the values of their tasks live."""
