"""Other ways to serve the same model file: what a good engineer writes in an afternoon, and the fastest framework."""
