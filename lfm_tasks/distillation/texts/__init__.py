"""Texts that teachers write: sequences of a local model, rationales, and what is kept of them."""
