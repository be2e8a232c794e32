"""Programs for other machines: compiled for a topology, saved, loaded, and their cost read from the HLO text."""
