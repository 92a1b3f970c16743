"""Who is enrolled: the store (the truth), segments that answer searches, and what keeps the two in step."""
