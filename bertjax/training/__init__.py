"""What turns batches into weights: losses, optimizers, the step, checkpoints, metrics."""
