"""What the app knows, and how it learns it."""
