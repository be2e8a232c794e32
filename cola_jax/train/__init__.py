"""One trainer for every family: state, optimizer, step, loop, checkpoints, metrics."""
