"""Decide: what is to be done, as values.  Nothing here touches the world."""
