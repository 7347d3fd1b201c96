"""HTTP: connections, requests, bodies and problems."""
