"""Clusters and machines: what is there and what is wrong with it."""
