"""What the network sees: features of its encoder."""
