"""Turns networks, published or trained here, into bundles: fetch, rewrite the graph, prove parity, write the card."""
