"""Translate the user's files into the words of the model."""
