"""What a run costs: the paper's axis, our exact count, and the share of the machine's peak that it uses."""
