"""What surrounds attention in published models: residuals and norms, feed-forward, positions, encoder and decoder layers."""
