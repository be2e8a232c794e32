"""Programs for machines that are not here: compiled for a topology, kept, loaded, and what their text says they cost."""
