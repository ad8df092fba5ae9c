"""Training one network: optimizer, criterion, step, loop, checkpoints."""
