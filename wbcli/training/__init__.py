"""Training: the one loop, a run while it trains, stages, what is kept for later."""
