"""What surrounds attention in published models: residuals and norms, feed-forward, embeddings, encoder and decoder layers."""
