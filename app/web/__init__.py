"""How the app reads what people send, and how it answers, whatever the route is about."""
