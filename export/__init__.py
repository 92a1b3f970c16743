"""Turns published networks into bundles: fetch, rewrite the graph, prove parity, write the card."""
