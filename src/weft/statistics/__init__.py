"""What data tell about a model: its Fisher information, the Gram matrices of its layers' inputs."""
