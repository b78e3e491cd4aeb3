"""HTTP/1.1, plain or inside TLS that the proxy ends: every request is judged, rebuilt, and recorded with its response."""
