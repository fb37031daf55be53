"""``histogen synthesize``: tiles made from the embeddings of tiles."""
