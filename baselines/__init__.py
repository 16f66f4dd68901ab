"""This package is now `architectures`."""
