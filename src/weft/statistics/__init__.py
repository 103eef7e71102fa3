"""What data tell about a model: diagonal Fisher information, Gram matrices, K-FAC."""
