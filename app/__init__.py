"""What people talk to: a REST API and its event streams. It publishes facts, and reads what the projection wrote."""
