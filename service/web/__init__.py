"""The web page at ``/``: static files that call nothing but the public API."""
