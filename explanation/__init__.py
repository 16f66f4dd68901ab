"""Heat maps of a network's predictions, features of its encoder, and a test of how well the maps localise injuries."""
