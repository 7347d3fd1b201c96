"""Security: keys, tokens and what they allow."""
