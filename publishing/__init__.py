"""What leaves the house: the Hub folder of a model and its card."""
