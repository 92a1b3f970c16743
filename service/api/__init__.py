"""The HTTP contract: routes, request bodies, answers, and one table of errors."""
