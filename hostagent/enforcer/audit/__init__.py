"""The second net: what governed processes hold or can see that was made elsewhere. It looks and ends; it opens nothing."""
