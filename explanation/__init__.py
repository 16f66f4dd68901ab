"""What the network sees: features of its encoder, heat maps of its answers, and how far those can be trusted."""
