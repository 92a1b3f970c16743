"""Keys and what they protect: templates at rest, access to the API, the audit log."""
