"""The parts of a training run: plan, device and precision, optimiser, averaged weights, saved state, log."""
