"""The online store on Redis and Valkey."""
