"""Publishing: model folders, model cards, uploads to the Hugging Face Hub, the Space, and converted models."""
