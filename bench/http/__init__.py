"""What governing HTTP costs, beside direct, haproxy and mitmproxy, in one interleaved run."""
